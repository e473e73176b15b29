"""Whole measured runs: read, predicted, judged; software fitted to them."""
