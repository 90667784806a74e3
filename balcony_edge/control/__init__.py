"""Connects the controller: what it is told about a bundle and a device, and the log of what it decides."""
