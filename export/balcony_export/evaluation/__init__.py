"""How good a bundle's exits and budgets are on a text, and the LM-Evaluation-Harness."""
