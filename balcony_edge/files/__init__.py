"""Files: read within bounds and with explained errors, written by one rule, and where what can be made again is kept."""
