"""Segment the user's own videos with a trained run."""
