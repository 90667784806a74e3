"""GGUF files as a base: their metadata, weights and tokenizer become what a Hugging Face model folder has."""
