"""Refinement of predicted label maps: CascadePSP, and voting over mask proposals (SSA)."""
