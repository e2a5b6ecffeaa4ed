"""Standard JSON without an extra package: numbers that are not finite become `null`."""

import json
import math
from typing import Any


def encoded(value: Any) -> bytes:
    """The value on one line. Raises `TypeError` if JSON cannot hold it.

    >>> encoded({"loss": float("nan"), "steps": (1, 2.5)})
    b'{"loss":null,"steps":[1,2.5]}'
    """
    return json.dumps(_finite(value), allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
