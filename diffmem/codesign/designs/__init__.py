"""Memory systems as designs: parts, prices, budgets, the best of them."""
