"""Video semantic segmentation: train, run, ensemble, refine and score models."""

__version__ = "0.1.0"
