"""How sure an answer is, what would change it, and what to measure."""
