"""A model's tokenizer as transformers takes it, and the file that a bundle gets of it."""
