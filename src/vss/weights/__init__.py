"""Files of weights: read, identified, renamed, audited, imported, averaged and written; `weights_file` is the door."""
