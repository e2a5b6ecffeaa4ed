"""Gradients that travel forward, where they should pay: a distant cue, and deep networks on a text."""
