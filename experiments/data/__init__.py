"""Data sets and synthetic tasks of the papers."""
