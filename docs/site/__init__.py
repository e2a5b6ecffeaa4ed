"""How the documentation site is built: see `__main__.py`."""
