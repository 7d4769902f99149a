"""What the Snakefile asks: the config, the plan of a run, settings, provenance digests, leases and signals."""
