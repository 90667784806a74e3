"""The bundle: its manifest (the schema is defined here alone), and opening, checking, writing and sharing it."""
