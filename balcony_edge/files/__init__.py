"""Files of others: read within bounds and with explained errors; and one rule for files that are written."""
