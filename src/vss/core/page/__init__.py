"""HTML pages: what all of them have in common."""
