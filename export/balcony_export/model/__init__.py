"""The base model, read as it comes: where its files are, what its architecture is, and its weights."""
