"""Measuring: bench, recordings of replies, replay's load traces, pictures."""
