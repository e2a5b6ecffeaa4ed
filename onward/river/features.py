"""From River's dicts and data frames to the numbers of an event."""

import math
from collections.abc import Hashable, Mapping, Sequence
from operator import itemgetter

import numpy as np


class Features:
    """The features of a stream in a fixed order, and what is done about one that is missing, or new.

    **Arguments:**

    - `names`: the features; kept in alphabetical order, so that the order in a dict means nothing.
    - `fill`: the number that stands for a missing feature, or `None` for the last value it had (0 before any). A
      feature is missing where it is not in the dict, `None` or NaN.
    - `strict`: if true, a missing or a new feature is refused; otherwise a new one is ignored.

    Raises `ValueError` if a feature is refused, is no finite number, or is named twice.
    """

    def __init__(self, names: Sequence[Hashable], fill: float | None, strict: bool):
        self.names = tuple(sorted(names, key=str))
        _once(self.names)
        self.fill, self.strict = fill, strict
        self.last = (0.0,) * len(self.names)

    def of(self, x: Mapping) -> tuple:
        """The numbers of one dict, in order."""
        names = self.names
        try:
            values = itemgetter(*names)(x) if len(names) > 1 else tuple(x[name] for name in names)
            sound = math.isfinite(sum(values)) and not (self.strict and len(x) > len(names))
        except (KeyError, TypeError, OverflowError):
            sound = False
        return values if sound else self._mended(x)  # type: ignore[reportPossiblyUnbound]

    def _mended(self, x: Mapping) -> tuple:
        if self.strict and (new := set(x).difference(self.names)):
            raise ValueError(f"x holds a new feature {min(new, key=str)!r}; known are {_listed(self.names)}.")
        return tuple(self._value(x, i, name) for i, name in enumerate(self.names))

    def _value(self, x: Mapping, i: int, name: Hashable) -> float:
        given = x.get(name)
        try:
            value = math.nan if given is None else float(given)
        except (TypeError, ValueError, OverflowError):
            value = math.inf
        if isinstance(given, str) or math.isinf(value):
            raise ValueError(
                f"feature {name!r} must be a finite number, got {given!r}; encode what is no number first."
            )
        if not math.isnan(value):
            return value
        if self.strict:
            raise ValueError(f"x lacks the feature {name!r}; every event needs {_listed(self.names)}.")
        return self.last[i] if self.fill is None else self.fill

    def of_frame(self, X) -> np.ndarray:
        """The numbers of each row of a data frame, `[rows, features]`, float64."""
        _once(tuple(X.columns))
        if self.strict and (new := set(X.columns).difference(self.names)):
            raise ValueError(f"X holds a new feature {min(new, key=str)!r}; known are {_listed(self.names)}.")
        try:
            # In their order already, as mostly, the columns need no reindexing, which takes as long as 20 events.
            known = X if tuple(X.columns) == self.names else X.reindex(columns=list(self.names))
            if known.to_numpy().dtype == object:
                for name in self.names:
                    if any(isinstance(value, str) for value in known[name]):
                        raise ValueError(f"{name!r} holds text")
            values = known.to_numpy(np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise ValueError(f"X must hold finite numbers only ({error}); encode what is no number first.") from None
        missing = np.isnan(values)
        if np.isinf(values).any():
            name = self.names[int(np.argwhere(np.isinf(values))[0, 1])]
            raise ValueError(f"feature {name!r} must be a finite number, got an infinite one.")
        if self.strict and missing.any():
            raise ValueError(f"X lacks values of the feature {self.names[int(np.argwhere(missing)[0, 1])]!r}.")
        if self.fill is not None:
            return np.where(missing, self.fill, values)
        # The row that each value was last seen in, counting from the last value before the frame.
        values, missing = np.vstack([self.last, values]), np.vstack([np.zeros_like(missing[:1]), missing])
        seen = np.maximum.accumulate(np.where(missing, 0, np.arange(len(values))[:, None]))
        return np.take_along_axis(values, seen, 0)[1:]


def _once(names: Sequence[Hashable]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"each feature must be named once, got {twice!r} twice.")


def _listed(names: Sequence[Hashable]) -> str:
    return ", ".join(repr(name) for name in names)
