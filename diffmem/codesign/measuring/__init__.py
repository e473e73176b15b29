"""What to measure next for a decision, by Fisher information."""
