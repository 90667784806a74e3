"""Policies solved in advance, and the choice between them."""
