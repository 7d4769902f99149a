"""The ensemble stage: weighted means of stored class probabilities, and the choice of their weights."""
