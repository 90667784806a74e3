"""What keeps this device from running a model well, and the next command for each problem."""
