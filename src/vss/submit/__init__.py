"""Packs the label maps of a test split as the challenge wants them, complete or not at all."""
