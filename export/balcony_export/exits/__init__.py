"""Balconies and what is fitted to them: gates, judges, calibration; where they are placed and stored."""
