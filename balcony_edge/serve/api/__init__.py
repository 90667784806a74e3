"""The endpoints: what each path reads and answers."""
