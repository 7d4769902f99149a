"""Scores label maps against masks: integer counts per shard, every quotient taken once, from their sum."""

from vss.core.callable_package import make_callable

make_callable(__name__, "vss.api:score")
