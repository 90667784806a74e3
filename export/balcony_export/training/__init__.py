"""Self-distillation of exits, the base frozen: one run, its loop, its losses, and how it resumes."""
