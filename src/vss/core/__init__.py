"""What every stage shares: errors, logging, whole files, the index, prediction files, labels and counts."""
