"""The pseudo stage: what a model is sure of on frames without labels, as labels to train on."""
