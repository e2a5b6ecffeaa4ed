"""Turns River's dicts and data frames into the numbers of an event."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from narwhals.exceptions import DuplicateError
from river.utils.dataframe import into_frame

# Types that Python or NumPy converts to numbers although they are not: text, times, and complex numbers.
NO_NUMBERS = (str, bytes, bytearray, np.timedelta64, np.datetime64, np.complexfloating)
REAL = (float, int)
REMEDY = "encode other values as numbers first"


class Features:
    """The features of a stream in a fixed order, and how missing and new features are handled.

    **Arguments:**

    - `names`: the names of the features, in the order in which their numbers are returned.
    - `fill`: the number for a missing feature, or `None` for its last value (0 before any). A feature is missing if it
      is not in the dict, or is `None`, NaN, NaT or NA there.
    - `strict`: whether a missing or a new feature is refused. Otherwise a new feature is ignored until `with_new` adds
      it.
    - `slots`: how many inputs the network has for features, at least as many as `names`; spare inputs are 0.

    Raises `ValueError` if a feature is refused, is not a finite number, or is named twice.
    """

    def __init__(self, names: Iterable[Hashable], fill: float | None, strict: bool, slots: int | None = None):
        self.names = tuple(names)
        _once(self.names)
        self.fill, self.strict = fill, strict
        self.slots = len(self.names) if slots is None else slots
        self.spare = (0.0,) * (self.slots - len(self.names))
        self.last = (0.0,) * len(self.names)
        self._known = frozenset(self.names)

    def with_new(self, names: Iterable[Hashable]) -> "Features":
        """These features, with the new ones among `names` added.

        New features come last, in alphabetical order. The number of slots is then a power of two, so that a stream with
        ever more features resizes its network only a few times.
        """
        if self.strict or self._known.issuperset(names):
            return self
        names = (*self.names, *in_order(name for name in names if name not in self._known))
        enough = len(names) <= self.slots
        grown = Features(names, self.fill, self.strict, self.slots if enough else 1 << (len(names) - 1).bit_length())
        grown.last = (*self.last, *(0.0,) * (len(names) - len(self.names)))
        return grown

    def of(self, x: Mapping) -> tuple:
        """The numbers of one dict, in order."""
        names = self.names
        try:
            values = itemgetter(*names)(x) if len(names) > 1 else tuple(x[name] for name in names)
            total = sum(values)
            sound = isinstance(total, REAL) and math.isfinite(total) and not (self.strict and len(x) > len(names))
        except (KeyError, TypeError, OverflowError):
            sound = False
        return values if sound else self._mended(x)  # type: ignore[reportPossiblyUnbound]

    def of_frame(self, X) -> np.ndarray:
        """The numbers of each row of a data frame that River takes, `[rows, features]`, float64."""
        values = _plain(X, self.names)
        if values is None:
            frame = frame_of(X)
            there: list[Any] = frame.columns
            if self.strict:
                self._refuse_new(there)
            values = np.full((len(frame), len(self.names)), np.nan)
            for i, name in enumerate(self.names):
                if name in there:
                    values[:, i] = _column(name, frame.get_column(there[there.index(name)]))
        if np.isinf(values).any():
            name = self.names[int(np.argwhere(np.isinf(values))[0, 1])]
            raise ValueError(f"feature {name!r} must be a finite number, got an infinite one; {REMEDY}.")
        missing = np.isnan(values)
        if self.strict and missing.any():
            raise ValueError(f"X lacks values of the feature {self.names[int(np.argwhere(missing)[0, 1])]!r}.")
        if self.fill is not None:
            return np.where(missing, self.fill, values)
        # The row in which each value was last seen; row 0 is the last value before the frame.
        values, missing = np.vstack([self.last, values]), np.vstack([np.zeros_like(missing[:1]), missing])
        seen = np.maximum.accumulate(np.where(missing, 0, np.arange(len(values))[:, None]))
        return np.take_along_axis(values, seen, 0)[1:]

    def _mended(self, x: Mapping) -> tuple:
        if self.strict:
            self._refuse_new(x)
        return tuple(self._value(x, i, name) for i, name in enumerate(self.names))

    def _value(self, x: Mapping, i: int, name: Hashable) -> float:
        value = _number(name, x.get(name))
        if not math.isnan(value):
            return value
        if self.strict:
            raise ValueError(f"x lacks the feature {name!r}; every event needs {_listed(self.names)}.")
        return self.last[i] if self.fill is None else self.fill

    def _refuse_new(self, names: Iterable[Hashable]) -> None:
        if new := set(names) - self._known:
            raise ValueError(f"there is a new feature {min(new, key=str)!r}; known are {_listed(self.names)}.")


def in_order(names: Iterable[Hashable]) -> tuple[Hashable, ...]:
    """The names in alphabetical order, so that their order in a dict does not matter."""
    return tuple(sorted(names, key=str))


def frame_of(X) -> nw.DataFrame:
    """A data frame of any kind that River takes. Raises `ValueError` for anything else, and if two columns have
    one name.
    """
    try:
        return into_frame(X)
    except DuplicateError:
        raise ValueError("each feature must be named once; X has two columns of one name.") from None
    except TypeError:
        raise ValueError(f"X must be a data frame, of pandas, polars or pyarrow, got {type(X).__name__}.") from None


def row_count(X) -> int:
    """The number of rows of a data frame. Raises `ValueError` for what is none."""
    return len(X) if hasattr(X, "__len__") else len(frame_of(X))


def column_names(X) -> Iterable[Hashable]:
    """The names of the columns of a data frame."""
    return X.columns if nw.dependencies.is_pandas_dataframe(X) else frame_of(X).columns


def is_missing(value) -> bool:
    """Whether `value` means that there is no value: `None`, NaN, NaT or NA."""
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:  # comparing pandas' NA with itself has no truth value
        return True
    except ValueError:  # an array
        return False


def number_or_nan(value) -> float:
    """`value` as a float: NaN if it is missing, infinite if it is not a finite number."""
    if is_missing(value):
        return math.nan
    try:
        return math.inf if isinstance(value, NO_NUMBERS) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.inf


def _number(name: Hashable, value) -> float:
    number = number_or_nan(value)
    if math.isinf(number):
        raise ValueError(f"feature {name!r} must be a finite number, got {value!r}; {REMEDY}.")
    return number


def _plain(X, names: tuple[Hashable, ...]) -> np.ndarray | None:
    """The numbers of a pandas frame whose columns are numeric and in this order, as in most frames; `None` for any
    other.

    This avoids narwhals, which takes as long for a frame as ten events do.
    """
    if nw.dependencies.is_pandas_dataframe(X) and tuple(X.columns) == names:
        values = X.to_numpy()
        if values.dtype.kind in "fiub":
            return values.astype(np.float64)
    return None


def _column(name: Hashable, column: nw.Series) -> np.ndarray:
    """The numbers of a column, NaN where they are missing."""
    if column.dtype.is_numeric() or column.dtype == nw.Boolean:
        return column.cast(nw.Float64).to_numpy()
    if column.dtype.is_temporal() and column.null_count() < len(column):
        raise ValueError(f"feature {name!r} must be a finite number, got {column.dtype}; {REMEDY}.")
    return np.array([_number(name, value) for value in column.to_list()], float)


def _once(names: Sequence[Hashable]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"each feature must be named once, got {twice!r} twice.")


def _listed(names: Sequence[Hashable]) -> str:
    return ", ".join(repr(name) for name in names)
