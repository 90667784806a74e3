"""A model's config.json: read, completed with its family's defaults, its rotary positions computed."""
