"""Refinement of predicted label maps: CascadePSP, and votes over mask proposals and over time."""
