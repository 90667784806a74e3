"""The command line: one file per verb. Answers go to stdout, everything else to stderr."""
