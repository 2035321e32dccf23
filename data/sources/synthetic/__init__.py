"""Synthetic clips in which some objects move and only some of them sound."""
