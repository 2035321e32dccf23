"""Run folders: config, checkpoints, weights and logs of a training."""
