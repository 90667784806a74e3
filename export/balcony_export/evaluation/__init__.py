"""Measuring a bundle: its exits and budgets on a text, and the tasks of the LM-Evaluation-Harness."""
