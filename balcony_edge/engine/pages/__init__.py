"""Pages of memory: large ones for weights, and what is given back to the system."""
