"""Training exits by self-distillation with the base frozen: the run, its loop, its losses, and how it resumes."""
