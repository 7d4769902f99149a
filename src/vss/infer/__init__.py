"""Inference: test-time views, the engine that averages them, and the stage that writes predictions of a shard."""
