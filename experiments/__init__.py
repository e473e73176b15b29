"""Short absl programs, run as `python -m experiments.NAME`."""
