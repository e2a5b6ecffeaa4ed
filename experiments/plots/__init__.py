"""Pictures that only the experiments draw."""
