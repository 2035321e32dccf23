"""Published checkpoints held against the published numbers."""
