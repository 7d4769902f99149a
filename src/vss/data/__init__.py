"""Data: lists, checks and draws datasets, and reads them for MMSegmentation."""
