"""The common part of the three estimators: a recurrent network that learns every event as it comes."""

import functools
import math
import pickle
import secrets
import struct
import sys
import warnings
from collections.abc import Callable, Hashable, Iterable
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import msgspec
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

import onward

from ..cells import AbstractCell
from ..checkpoints.run_checkpoint import load_checkpoint, load_standing, save_checkpoint
from ..estimators.base import AbstractEstimator
from ..learner import Carry, Learner
from ..live import Live
from ..model import Model
from ..support import small_loops
from ..support.arguments import number, whole
from ..support.errors import UserError
from ..support.program_digest import traced_digest
from ..support.trees import largest
from .features import Features, column_names, in_order, number_or_nan, row_count
from .growth import grown

DEFAULT_ESTIMATOR = onward.SnAp(order=1)
DEFAULT_OPTIMIZER = optax.chain(onward.transforms.scale_by_feature_rms(), optax.scale_by_learning_rate(3e-3))

FLOAT32 = np.dtype("<f4")
TOO_LARGE = (
    1e9  # a gradient may be a product of two such numbers, and the optimiser squares it: 1e36 is below float32's 3e38
)

Name = str | int | float | bool
SETTINGS = ("cell", "estimator", "optimizer")  # attributes that may hold functions
VERSIONS = f"onward {onward.__version__} and JAX {jax.__version__}"


class Standing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of a saved estimator besides its carry.

    * `features`, `last`: the names and last values of the features; `slots`: the number of inputs for features, `None`
      if it equals the number of features;
    * `classes`, `moments`: the classes seen so far, and running moments;
    * `program`, `versions`: the digest of the compiled computation, and the versions of onward and JAX that made it.
    """

    features: list[Name]
    last: list[float]
    classes: list[Name]
    moments: list[float]
    slots: int | None = None
    program: str = ""
    versions: str = "an earlier version of onward"


class Settings:
    """Cell, estimator and optimiser. They may hold functions: copies share them, and a pickle stores them if it can."""

    def __init__(self, *parts: Any):
        self.parts = parts

    def __deepcopy__(self, memo) -> "Settings":
        return self

    def __reduce__(self):
        # Other picklers can store more than Python's own, and report themselves what they cannot.
        if not sys.modules.keys() & {"cloudpickle", "dill"}:
            try:
                pickle.dumps(self.parts)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise pickle.PicklingError(
                    f"cell, estimator or optimizer of this model hold what pickle cannot store ({error}); use "
                    "save(path), and load(path) in a new model with the same settings."
                ) from None
        return Settings, self.parts


class Programs(NamedTuple):
    """The compiled functions for some settings.

    * `live`: learning and predicting; `start`: an initial carry from a key; `begin`: an initial carry from a model;
    * `digest`: the digest of the program that learns an event.
    """

    live: Live
    start: Callable[[PRNGKeyArray], Carry]
    begin: Callable[[Model], Carry]
    digest: Callable[[], str]


class Recurrent:
    """A recurrent network behind River's interface. A subclass defines `loss`, `outputs` and `targets`."""

    loss: Callable
    outputs: int  # numbers in a prediction
    targets: int  # numbers in a target, as the loss takes it
    extra_inputs = 0  # inputs of the network before the features

    def __init__(
        self,
        cell: Callable[..., AbstractCell] = onward.LSTMCell,
        hidden_size: int = 32,
        estimator: AbstractEstimator | None = None,
        optimizer: optax.GradientTransformation | None = None,
        features: tuple | None = None,
        fill: float | None = 0.0,
        strict: bool = False,
        seed: int | None = None,
    ):
        self.cell, self.hidden_size, self.estimator, self.optimizer = cell, hidden_size, estimator, optimizer
        self.features, self.fill, self.strict, self.seed = features, fill, strict, seed
        whole("hidden_size", hidden_size)
        if seed is not None:
            whole("seed", seed, least=0)
        if fill is not None:
            number("fill", fill, math.isfinite, "a finite number, or None for the last value")
        self._features: Features | None = None
        self._live: Live | None = None
        self._held: list = []  # the state, and the last predictions
        self._waiting: bytes | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Compiled functions are found again by the settings, so they are not stored.
        self._settle()
        state = {**self.__dict__, "_live": None, "_held": jax.tree.map(np.array, self._held[:1])}
        state["_settings"] = Settings(*(state.pop(name) for name in SETTINGS))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        state |= zip(SETTINGS, state.pop("_settings").parts, strict=True)
        self.__dict__.update(state)
        if self._features is not None:
            self._live = self._programs(self._features.slots).live
            if not self._live.fits(self._held[0]):
                raise ValueError(
                    f"this {type(self).__name__} was stored by a version of onward whose default settings were others; "
                    "load it with that one, and name them."
                )

    @property
    def carry(self) -> Carry:
        """Everything learned so far, as a carry of `onward.Learner`. Raises `ValueError` before the first event."""
        if self._live is None:
            raise ValueError("nothing has been learned yet; call learn_one first.")
        self._settle()
        return self._live.unpack(self._held[0])

    def save(self, path: str | PathLike) -> None:
        """Writes everything learned so far to one file, atomically and without a pickle.

        Raises `ValueError` before the first event, if a feature or class is not a text, number or truth value, and if a
        learned number is not finite. Then nothing is written.
        """
        carry, features = self.carry, self._known
        if not jnp.isfinite(largest(eqx.filter(carry, eqx.is_inexact_array))):
            raise ValueError(
                "what was learned holds numbers that are not finite; load what was saved before, or begin anew with a "
                "smaller rate in optimizer."
            )
        names: list[Any] = [*features.names]
        standing = Standing(
            names,
            [*map(float, features.last)],
            self._classes(),
            self._moments(),
            features.slots,
            self._programs(features.slots).digest(),
            VERSIONS,
        )
        for name in (*standing.features, *standing.classes):
            if not isinstance(name, Name):
                raise ValueError(
                    f"features and classes must be text, numbers or truth values to be saved, got {name!r}."
                )
        save_checkpoint(Path(path), carry, standing, settings=type(self).__name__)

    def load(self, path: str | PathLike) -> None:
        """Continues from a file that `save` wrote, in an estimator with the same settings.

        Raises `ValueError` if the file is damaged, or comes from another kind of estimator or other settings: another
        cell, estimator or optimiser, or other numbers in them, such as the rate. If another version of onward or JAX
        saved the file, these numbers cannot be compared, and a warning says so.
        """
        found, kind = Path(path), type(self).__name__
        try:
            standing = load_standing(found, settings=kind, standing=Standing)
            features = Features(standing.features, self.fill, self.strict, standing.slots)
            programs = self._programs(features.slots)
            carry, _ = load_checkpoint(found, programs.start(jr.key(0)), settings=kind, standing=Standing)
        except UserError as error:
            raise ValueError(str(error)) from None
        if standing.versions != VERSIONS:
            warnings.warn(
                f"{found} was saved by {standing.versions}, and this is {VERSIONS}: it cannot be told whether its "
                "optimiser, such as its rate, is the same as here.",
                stacklevel=2,
            )
        elif standing.program != programs.digest():
            raise ValueError(
                f"{found} comes from a {kind} with another optimiser, estimator or cell, or with other numbers in "
                "them, such as the rate; load it into one with the same settings."
            )
        features.last, held = tuple(standing.last), [programs.live.pack(carry)]
        self._restore(standing.classes, standing.moments)
        self._features, self._live, self._held, self._waiting = features, programs.live, held, None

    def _classes(self) -> list:
        return []

    def _moments(self) -> list[float]:
        return []

    def _restore(self, classes: list, moments: list[float]) -> None: ...

    @property
    def _known(self) -> Features:
        assert self._features is not None
        return self._features

    def _known_to(self, x: Iterable[Hashable]) -> Features:
        """The features of this stream, with those among `x`, the names in an event, that are new."""
        if self._features is not None:
            return self._features if self.features is not None else self._features.with_new(x)
        features = Features(in_order(x if self.features is None else self.features), self.fill, self.strict)
        if len(features.names) + self.extra_inputs == 0:
            raise ValueError("x must hold at least one feature, got none.")
        return features

    def _begin(self, features: Features) -> None:
        """Fixes the features when an event is accepted: makes the network at the first event, and enlarges it for new
        features.
        """
        if features is self._features:
            return
        programs = self._programs(features.slots)
        if self._features is None:
            carry = programs.start(jr.key(secrets.randbits(32) if self.seed is None else self.seed))
            self._live, self._held = programs.live, [programs.live.pack(carry)]
        elif features.slots != self._features.slots:
            sizes = (self.extra_inputs + each.slots for each in (self._features, features))
            carry = grown(self.carry, programs.start(jr.key(0)).model, programs.begin, *sizes)
            self._live, self._held = programs.live, [programs.live.pack(carry)]
        self._features = features

    def _programs(self, slots: int) -> Programs:
        settings = (
            self.cell, self.hidden_size, self.estimator or DEFAULT_ESTIMATOR, self.optimizer or DEFAULT_OPTIMIZER,
            type(self).loss, self.extra_inputs + slots, self.outputs, self.targets,
        )  # fmt: skip
        try:
            hash(settings)
        except TypeError:  # an estimator that holds arrays
            return _compiled.__wrapped__(*settings)
        return _compiled(*settings)

    # An event is learned when the next one is predicted: one call of the compiled program instead of two.

    def _learn(self, features: Features, x: tuple, y: tuple) -> None:
        event = _packed(x + features.spare + y)
        self._begin(features)
        self._settle()
        self._waiting = event

    def _settle(self) -> None:
        """Learns the waiting event, if there is one."""
        if self._waiting is not None:
            self._predict_bytes(bytes(len(self._waiting)))

    def _predict(self, x: tuple) -> np.ndarray:
        return self._predict_bytes(_packed(x + self._known.spare + (0.0,) * self.targets))

    def _predict_bytes(self, x: bytes) -> np.ndarray:
        assert self._live is not None
        learned, held = self._waiting is not None, self._held
        pair = np.frombuffer((self._waiting or x) + x, FLOAT32)
        self._live.turn_pair(held, pair, learned, 1 + learned)
        self._waiting = None
        return np.asarray(held[1])[int(learned)]

    def _learn_frame(self, X, targets: np.ndarray) -> None:
        """Learns the rows of `X`; `targets[i]` belongs to row i."""
        count = row_count(X)
        if count != len(targets):
            raise ValueError(f"y must be as long as X, {count} rows, got {len(targets)}.")
        if count:
            features = self._known_to(column_names(X))
            rows = features.of_frame(X)
            events = float32_rows(np.hstack([rows, np.zeros((len(rows), len(features.spare))), targets]))
            self._begin(features)
            assert self._live is not None
            self._settle()
            state, _ = self._live.turn(self._held[0], events, len(events))
            self._held, features.last = [state], tuple(rows[-1].tolist())

    def _predict_frame(self, X) -> np.ndarray:
        """The prediction of each row, `[rows, outputs]`, float64."""
        if not row_count(X):
            return np.zeros((0, self.outputs))
        assert self._live is not None
        self._settle()
        rows = float32_rows(self._known.of_frame(X))
        rows = np.pad(rows, ((0, 0), (0, len(self._known.spare) + self.targets)))
        return self._live.turn(self._held[0], rows, 0)[1].astype(float)


def finite(name: str, value) -> float:
    """`value` as a float. Raises `ValueError`, naming the argument, unless it is a finite number."""
    number = value if type(value) is float else number_or_nan(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, got {value!r}.")
    return number


def finite_targets(y) -> np.ndarray:
    """A series as numbers. Raises `ValueError` unless it holds one finite number for each row."""
    values = np.asarray(y)
    if values.ndim != 1:
        raise ValueError(f"y must hold one number for each row, got an array of shape {values.shape}.")
    if values.dtype.kind in "mM":
        raise ValueError(f"y must hold numbers, got {values.dtype}.")
    if values.dtype.kind in "fiu" and np.isfinite(values).all():
        return values.astype(float)
    return np.array([finite("y", value) for value in values.tolist()])


def float32_rows(values: np.ndarray) -> np.ndarray:
    """The numbers as float32. Raises `ValueError` if one is too large to learn from."""
    if (most := np.abs(values).max(initial=0.0)) >= TOO_LARGE:
        raise ValueError(f"features and targets must be less than 1e9, got {most}; scale them first.")
    return values.astype(np.float32)


def _packed(values: tuple) -> bytes:
    """The numbers as the bytes of float32. Raises `ValueError` if one is too large to learn from."""
    if (most := max(map(abs, values))) >= TOO_LARGE:
        raise ValueError(f"features and targets must be less than 1e9, got {most}; scale them first.")
    return struct.pack(f"<{len(values)}f", *values)


@functools.lru_cache(maxsize=64)
def _compiled(cell, hidden_size, estimator, optimizer, loss, inputs, outputs, targets) -> Programs:
    """The compiled functions, shared by all estimators with the same settings."""
    small_loops.request()
    # JAX hands a call of XLA with more than about a thousand operations to another thread and waits for it. That takes
    # 50 µs and more, against 5 for a small step. JAX reads this when it first computes; later it has no effect.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    learner = Learner(estimator, optimizer, loss=loss)

    @eqx.filter_jit
    def begin(model, key):
        dtype = model.cell.output(model.cell.init_hidden()).dtype
        return learner.init(model, key=key, example=(jnp.zeros(inputs, dtype), jnp.zeros(targets, dtype)))

    @eqx.filter_jit
    def start(key):
        cell_key, readout_key, key = jr.split(key, 3)
        network = cell(inputs, hidden_size, key=cell_key)
        output = network.output(network.init_hidden())
        readout = eqx.nn.Linear(output.size, outputs, dtype=output.dtype, key=readout_key)
        return begin(Model(network, readout), key)

    @functools.cache
    def digest():
        carry = start(jr.key(0))
        x, y = (jnp.zeros((1, size), jnp.result_type(*jax.tree.leaves(carry.hidden))) for size in (inputs, targets))
        return traced_digest(learner.update, carry, x, y).hexdigest()

    live = Live(learner, start(jr.key(0)), inputs=inputs, targets=targets)
    return Programs(live, start, lambda model: begin(model, jr.key(0)), digest)
