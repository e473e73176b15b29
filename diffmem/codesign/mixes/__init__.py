"""Mixes of workloads: traffic, best plans, and their slopes."""
