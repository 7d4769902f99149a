"""The pseudo stage: confident predictions on frames without labels become labels to train on."""
