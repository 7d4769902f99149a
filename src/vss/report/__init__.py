"""Puts the scores beside the paper's, draws the figures, and writes one page that holds everything."""
