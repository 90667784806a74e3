"""Measures this machine and writes the result as a device profile (``balcony-edge profile``)."""
