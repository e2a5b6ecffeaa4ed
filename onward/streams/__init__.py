"""Streams of events that never end: where they come from, and learning them one by one."""
