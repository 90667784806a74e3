"""A bundle written: which graphs and files it holds, its card, and the check before it is left in place."""
