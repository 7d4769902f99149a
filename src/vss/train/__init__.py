"""Training: MMEngine's Runner with resumable, deterministic state."""
