"""Train and score a grid of settings, and print one table."""
