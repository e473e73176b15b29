"""diffmem beside other planners, under their own published equations.

`python -m benchmarks.peers` prints one table and writes it to docs/peers.md.
Peers' constants are in the TOML files of this folder, each with its source.
"""
