"""The command line: thin, it parses, chooses and calls."""

from .app import main as main
