"""Run folders and checkpoints: atomic files that hold a run's arrays and how far it has come."""
