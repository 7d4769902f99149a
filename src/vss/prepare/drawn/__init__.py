"""Drawn datasets: small videos of moving sprites in the real folder layouts, formats and label ids."""
