"""The folder for files that can be made or fetched again."""

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """The folder of onward within the user's cache folder."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "onward"
