"""A learner driven one event at a time from Python: its whole carry is one array, so that a call costs little."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, Shaped

from .learner import Carry, Learner


class Live:
    """The compiled programs of one learner on one stream, and the form of its carry as one flat array, the state.

    JAX asks a microsecond or two for every array that a call takes or returns, several times what a small step
    computes; so a call takes one state and returns one. An event is a vector: the input, then the target.

    **Arguments:**

    - `learner`: of a single stream (`batch=None`), with a chunk of one.
    - `carry`: a carry of it, for its structure, shapes and dtypes.
    - `inputs`, `targets`: the numbers of an event that are its input and its target, which `loss` gets as a vector.

        >>> import equinox as eqx, jax.random as jr, numpy as np, onward, optax
        >>> from onward.live import Live
        >>> learner = onward.Learner(onward.RTRL(), optax.sgd(1e-2), loss=onward.losses.squared_error)
        >>> cell = onward.VanillaCell(2, 4, key=jr.key(0))
        >>> carry = learner.init(onward.Model(cell, eqx.nn.Linear(4, 1, key=jr.key(1))), key=jr.key(2))
        >>> live = Live(learner, carry, inputs=2, targets=1)
        >>> state = live.pack(carry)
        >>> state = live.learn(state, np.ones((5, 3), np.float32))
        >>> live.predict(state, np.ones(2, np.float32)).shape
        (1, 1)
    """

    def __init__(self, learner: Learner, carry: Carry, *, inputs: int, targets: int):
        self._learner, self._inputs, self._width = learner, inputs, inputs + targets
        leaves, self._structure = jax.tree.flatten(carry)
        self._impls = [jr.key_impl(leaf) if _is_key(leaf) else None for leaf in leaves]
        self._forms = [jax.eval_shape(_bare, leaf) for leaf in leaves]
        self._dtype = jnp.result_type(*jax.tree.leaves(carry.hidden))
        self._one = jnp.array(1, jnp.int32)
        self.pack = jax.jit(self._pack)
        self.unpack = jax.jit(self._unpack)
        self._learn = jax.jit(self._learned, donate_argnums=0)
        self._predict = jax.jit(self._predicted)
        self.extrapolate = jax.jit(self._extrapolated)

    def learn(self, state: Array, events: np.ndarray) -> Array:
        """The state after one event or several, one after another; `state` itself is used up.

        `events`: float32, one row an event, or one event as a vector. Any number up to the next power of two runs the
        same program, and events give the same numbers however they are cut into calls.
        """
        return self._learn(state, *self._in_full(events, self._width))

    def predict(self, state: Array, xs: np.ndarray) -> np.ndarray:
        """The flat prediction of each of some inputs, `[count, outputs]`, were it the next event; nothing moves on."""
        rows, count = self._in_full(xs, self._inputs)
        return np.asarray(self._predict(state, rows, count))[: len(rows) if xs.ndim == 1 else len(xs)]

    def _in_full(self, rows: np.ndarray, width: int) -> tuple[np.ndarray, Int[Array, ""]]:
        """The rows, padded to a power of two, and their number."""
        if rows.ndim == 1:
            return rows[None], self._one
        padded = np.zeros((1 << (len(rows) - 1).bit_length(), width), np.float32)
        padded[: len(rows)] = rows
        return padded, jnp.int32(len(rows))

    def _learned(self, state, events, count):
        events = events.astype(self._dtype)

        def turn(i, carry):
            event = jax.lax.dynamic_slice_in_dim(events, i, 1)
            return self._learner.update(carry, event[:, : self._inputs], event[:, self._inputs :])[0]

        # A loop around the loop, run once: taking the state apart and together again is then compiled with it as one
        # function, not called piece by piece (`small_loops`).
        def all_turns(_, state):
            return self._pack(jax.lax.fori_loop(0, count, turn, self._unpack(state)))

        return jax.lax.fori_loop(0, jnp.minimum(count, 1), all_turns, state)

    def _predicted(self, state, xs, count):
        xs = xs.astype(self._dtype)

        def one(x):
            carry = self._unpack(state)
            return _flat(carry.model.predict(carry.model.cell(carry.hidden, x)))

        out = jnp.zeros((len(xs), *jax.eval_shape(one, xs[0]).shape), jnp.float32)
        return jax.lax.fori_loop(0, count, lambda i, out: out.at[i].set(one(xs[i])), out)

    def _extrapolated(self, state, x, xs, ratio):
        """Predictions of changes, each fed back: the input is `[level, change, *xs]`, and a level moves by `ratio`
        times the change predicted. `x` is the first level and change; returns the levels."""
        carry = self._unpack(state)

        def step(moving, row):
            hidden, level, change = moving
            hidden = carry.model.cell(hidden, jnp.concatenate([jnp.stack([level, change]), row]))
            change = _flat(carry.model.predict(hidden))[0]
            level = level + ratio * change
            return (hidden, level, change), level

        return jax.lax.scan(step, (carry.hidden, x[0], x[1]), xs)[1]

    def _pack(self, carry: PyTree) -> Float[Array, " size"]:
        return jnp.concatenate([_words(leaf) for leaf in jax.tree.leaves(carry)])

    def _unpack(self, state: Float[Array, " size"]) -> Carry:
        leaves, start = [], 0
        for form, impl in zip(self._forms, self._impls, strict=True):
            size = jax.eval_shape(_words, form).size
            leaf = _from_words(state[start : start + size], form)
            leaves.append(leaf if impl is None else jr.wrap_key_data(leaf, impl=impl))
            start += size
        return jax.tree.unflatten(self._structure, leaves)


def _flat(prediction: PyTree) -> Float[Array, " outputs"]:
    return jnp.concatenate([leaf.astype(jnp.float32).ravel() for leaf in jax.tree.leaves(prediction)])


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _bare(leaf) -> Array:
    return jr.key_data(leaf) if _is_key(leaf) else leaf


def _words(leaf: Shaped[Array, "..."]) -> Float[Array, " size"]:
    """The bits of an array as float32 numbers; types of less than four bytes are numbers that float32 holds exactly."""
    leaf = _bare(leaf)
    if leaf.dtype.itemsize < 4:
        return leaf.astype(jnp.float32).ravel()
    return jax.lax.bitcast_convert_type(leaf, jnp.float32).ravel()


def _from_words(words: Float[Array, " size"], like: jax.ShapeDtypeStruct) -> Array:
    """The array, without its key's type, that `_words` was given; it was `like` this."""
    if like.dtype.itemsize < 4:
        return words.astype(like.dtype).reshape(like.shape)
    split = like.shape if like.dtype.itemsize == 4 else (*like.shape, 2)
    return jax.lax.bitcast_convert_type(words.reshape(split), like.dtype)
