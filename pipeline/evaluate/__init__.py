"""Scoring: metrics, protocols, and the evaluation job."""
