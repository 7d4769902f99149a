"""Ours against the peers: one module per benchmark, run by `make bench-NAME`."""
