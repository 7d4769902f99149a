"""The prepare stage: lists and checks datasets, or draws small ones."""
