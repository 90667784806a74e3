"""Exits: the trained layers (Balconies), the gates and judges fitted to them, their places and their folder."""
