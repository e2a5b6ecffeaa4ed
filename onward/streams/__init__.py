"""Endless streams of events: where events come from, and learning from them one at a time."""
