"""The points of a sweep: a grid, a random search, and the check of any others."""

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ..support.arguments import unknown, whole
from .sweep_plan import Value

Given = Value | np.generic | Array  # a value of a setting, as the user gives it
GivenPoint = Mapping[str, Given]


def grid(**settings: Iterable[Given]) -> list[dict[str, Value]]:
    """All combinations of the values of each setting. The last setting varies fastest.

    Each sequence has at least one value, all different: finite numbers, or words. If one value is a float, all become
    floats. Raises `ValueError`, with the name of the setting, for others.

        >>> grid(horizon=(3, 5), rate=(0.1, 1))
        [{'horizon': 3, 'rate': 0.1}, {'horizon': 3, 'rate': 1.0},
         {'horizon': 5, 'rate': 0.1}, {'horizon': 5, 'rate': 1.0}]
        >>> import numpy as np
        >>> [point["rate"] for point in grid(rate=np.geomspace(0.01, 1, 3))]
        [0.01, 0.1, 1.0]

    Numbers of NumPy and JAX become Python's.
    """
    values = [_values(name, given) for name, given in settings.items()]
    return [dict(zip(settings, chosen, strict=True)) for chosen in itertools.product(*values)]


def log_uniform(count: int, /, *, key: PRNGKeyArray, **ranges: tuple[float, float]) -> list[dict[str, Value]]:
    """A random search: `count` points. Each setting is drawn between the two numbers of its range, uniformly in its
    logarithm.

    Raises `ValueError` unless `count` is at least 1 and each range has two finite numbers, 0 < low < high.

        >>> import jax.random as jr
        >>> points = log_uniform(100, key=jr.key(0), rate=(1e-3, 1.0), penalty=(0.1, 10.0))
        >>> len(points), sum(point["rate"] < 0.0316 for point in points) in range(40, 60)
        (100, True)
    """
    for name, (low, high) in ranges.items():
        if not 0 < low < high < math.inf:
            raise ValueError(f"{name}: a range to draw from must have 0 < low < high, both finite, got {low}, {high}.")
    drawn = np.asarray(jr.uniform(key, (whole("count", count), len(ranges))), np.float64)
    low, high = np.log(np.array(list(ranges.values()))).T
    points = np.exp(low + drawn * (high - low))
    return [dict(zip(ranges, point, strict=True)) for point in points.tolist()]


def plain(value: Any) -> Any:
    """A number of NumPy or JAX as Python's."""
    return value.item() if isinstance(value, np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0 else value


def check_points(points: Sequence[GivenPoint], make: Callable, columns: Sequence[str]) -> None:
    """Raises `ValueError` if there are no points, if they differ in their settings, if `make` does not take them, if
    they have the name of one of the results' columns, or for wrong values.
    """
    if not points:
        raise ValueError("points must hold at least one point, got none.")
    parameters = inspect.signature(make).parameters.values()
    known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    anything = any(p.kind == p.VAR_KEYWORD for p in parameters)
    for name in points[0]:
        if name not in known and not anything:
            raise ValueError(unknown("setting", name, known))
        if name in columns:
            raise ValueError(f"a setting must not be called {name!r}, which is a column of the results; rename it.")
    kinds = {name: isinstance(value, float) for name, value in points[0].items()}
    for point in points:
        if {name: isinstance(value, float) for name, value in point.items()} != kinds:
            raise ValueError(f"points must all have the same settings, floats in all or in none, got {dict(point)}.")
        for name, value in point.items():
            _values(name, [value])


def _values(name: str, given: Iterable[Given]) -> list[Value]:
    values: list[Value] = [plain(value) for value in given]
    if not values:
        raise ValueError(f"{name} must have at least one value, got none.")
    for value in values:
        if not isinstance(value, str) and not (isinstance(value, float | int) and math.isfinite(value)):
            raise ValueError(f"{name} must have finite numbers or words for values, got {value!r}.")
    if any(isinstance(value, float) for value in values) and not any(isinstance(value, str) for value in values):
        values = [float(value) for value in values]
    if len(set(values)) < len(values):
        raise ValueError(f"{name} must have different values, got {values}.")
    return values
