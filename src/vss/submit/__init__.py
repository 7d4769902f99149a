"""Hands label maps out: the zip that the challenge expects, complete or not at all, and the formats of other tools."""
