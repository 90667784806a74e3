"""A bundle against the checkpoint it was made from, stage by stage."""
