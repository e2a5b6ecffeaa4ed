"""Where this user's machine keeps what can be made or fetched again."""

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """The part of the user's cache folder that is onward's."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "onward"
