"""Text in and out: tokenizer, chat templates, conversations, grammars."""
