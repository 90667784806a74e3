"""Files: read within bounds and with explained errors, written by one rule; and where the cache is."""
