"""The bundle: its manifest (the one home of the schema), opened, checked, written whole and shared."""
