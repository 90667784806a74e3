"""Text in: corpora, documents, and the base's own replies."""
