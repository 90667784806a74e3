"""What the operating system gives a process: children, limits, a terminal, streams and signals."""
