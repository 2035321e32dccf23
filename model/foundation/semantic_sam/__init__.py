"""Semantic-SAM (Li et al., ECCV 2024) as a proposal generator: `generator.py` is the entrance."""
