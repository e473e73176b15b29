"""Where a vector index lives, and what a query costs."""
