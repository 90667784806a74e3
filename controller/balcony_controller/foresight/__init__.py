"""Drafts that no exit makes: from the text, or from the draft stage. What is learnt of them, and which are verified."""
