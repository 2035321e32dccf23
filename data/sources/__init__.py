"""Clip sources, and readers of masks and Maskiges that others made."""
