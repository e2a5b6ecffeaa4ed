"""The command line: a thin layer that parses options, builds objects and calls the library."""

from .app import main as main
