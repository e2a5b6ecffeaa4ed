"""How fast, and in how much memory, this library learns: `python -m benchmarks --help`."""
