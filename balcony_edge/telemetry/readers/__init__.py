"""One reader for each source of signals."""
