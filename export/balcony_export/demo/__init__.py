"""The recipe that the embedded demo bundle was made by: its tokenizer, base, exits and bundle."""
