"""Predictions of other systems, read in the layouts they write and imported; panoptic ones, written as well."""
