"""Weights of networks: read from files, under published names, and in files that carry their config."""
