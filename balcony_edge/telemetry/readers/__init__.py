"""One reader for each source of signals. Readers never raise: what they cannot read is unknown, with a reason."""
