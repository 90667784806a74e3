"""Weights that a checkpoint holds quantised already: their numbers as they are, of GGUF, AWQ and GPTQ."""
