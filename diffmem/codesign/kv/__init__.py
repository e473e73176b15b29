"""What memory for keys and values is worth, from traces of requests."""
