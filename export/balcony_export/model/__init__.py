"""The base as it comes: its architecture, its checkpoint, its rope, its defaults of generation."""
