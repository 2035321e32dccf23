"""The groups of commands that `combo` has beside its own; as thin as `cli.py`."""
