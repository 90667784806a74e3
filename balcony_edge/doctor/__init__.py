"""Finds what keeps this device from running a model well, and names the next command for each problem."""
