"""The laws for many plans at once, with plans as the innermost axis."""
