"""Scores label maps against masks: integer counts per shard, every quotient taken once, from their sum."""
