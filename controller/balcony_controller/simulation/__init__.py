"""Replay: recorded replies on a simulated device, with everything the governor is measured against."""
