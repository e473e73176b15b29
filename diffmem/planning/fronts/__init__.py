"""Fronts of two metrics, and of a value against the supply of memory."""
