"""Writing a bundle: its exits, graphs and files, its model card, and the check before it is left in place."""
