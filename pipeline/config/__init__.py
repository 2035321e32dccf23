"""The config tree, its sections, and the presets."""
