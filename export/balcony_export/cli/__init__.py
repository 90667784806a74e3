"""The workstation's verbs, one file each. They join ``balcony-edge`` by the entry points ``balcony_edge.commands``."""
