"""Hands label maps out: the zip that the challenge wants, complete or not at all, and the formats of other tools."""
