"""Puts the scores next to the paper's, draws the figures, and writes one page that holds everything."""
