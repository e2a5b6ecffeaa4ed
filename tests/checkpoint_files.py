"""Changes what a checkpoint file says of itself, as another version of onward would have written it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def edit_header(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Writes the file again after `edit` has changed its header."""
    with np.load(path, allow_pickle=False) as file:
        members = dict(file)
    header = json.loads(members["header"].tobytes())
    edit(header)
    members["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, allow_pickle=False, **members)
