"""Runs: a folder with the settings, metrics, checkpoints, pictures and summary of one training."""
