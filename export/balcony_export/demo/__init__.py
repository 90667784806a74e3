"""The recipe of the embedded demo bundle: tokenizer, base, exits, bundle."""
