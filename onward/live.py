"""A learner that Python drives one event at a time. Its carry is packed into few arrays, which makes a call cheap."""

from itertools import chain

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PyTree, Shaped

from .learner import Carry, Learner

BLOCK = 4096  # rows per call
# Arrays up to this size are packed with others: copying them is cheaper than another array in every call.
SMALL = 256

State = tuple[Array | np.ndarray, ...]


class Live:
    """The compiled program of one learner on one stream, and the state: its carry, packed into few arrays.

    JAX takes time for every call, and for every array that a call takes or returns: more than a small step computes
    (see `benchmarks/results/xla-on-cpu.md`, "Calls and flags"). So the small arrays of the carry are packed into one,
    and a single call both learns and predicts.

    An event is a vector: the input followed by the target. The results do not depend on how events are divided among
    calls.

    **Arguments:**

    - `learner`: a learner of a single stream (`batch=None`) with a chunk of one.
    - `carry`: a carry of this learner, for its structure, shapes and dtypes.
    - `inputs`, `targets`: how many numbers of an event are its input and its target. `loss` receives the target as a
      vector.

        >>> import equinox as eqx, jax.random as jr, numpy as np, onward, optax
        >>> from onward.live import Live
        >>> learner = onward.Learner(onward.RTRL(), optax.sgd(1e-2), loss=onward.losses.squared_error)
        >>> cell = onward.VanillaCell(2, 4, key=jr.key(0))
        >>> carry = learner.init(onward.Model(cell, eqx.nn.Linear(4, 1, key=jr.key(1))), key=jr.key(2))
        >>> live = Live(learner, carry, inputs=2, targets=1)
        >>> rows = np.ones((5, 3), np.float32)
        >>> state, predictions = live.turn(live.pack(carry), rows, learned=4)
        >>> predictions.shape
        (1, 1)
    """

    def __init__(self, learner: Learner, carry: Carry, *, inputs: int, targets: int):
        self._learner, self._inputs, self._width = learner, inputs, inputs + targets
        leaves, self._structure = jax.tree.flatten(carry)
        self._impls = [jr.key_impl(leaf) if _is_key(leaf) else None for leaf in leaves]
        self._forms = [jax.eval_shape(_bare, leaf) for leaf in leaves]
        self._dtype = jnp.result_type(*jax.tree.leaves(carry.hidden))
        self._counts = {pair: jnp.array(pair, jnp.int32) for pair in ((0, 1), (1, 1), (1, 2))}
        self._packed = [_form(leaf) for leaf in jax.eval_shape(self._pack, carry)]
        self.pack = jax.jit(self._pack)
        self.unpack = jax.jit(self._unpack)
        self._call = jax.jit(self._called)
        self._step = jax.jit(self._called, donate_argnums=0)
        self.extrapolate = jax.jit(self._extrapolated)

    def fits(self, state: State) -> bool:
        """Whether `state` is a state of this learner, according to its shapes and dtypes."""
        return [_form(leaf) for leaf in state] == self._packed

    def turn(self, state: State, rows: np.ndarray, learned: int) -> tuple[State, np.ndarray]:
        """Learns the first `learned` rows one after another, and predicts each other row as if it were the next event.

        `rows`: `[count, inputs + targets]`, float32. The targets of predicted rows are ignored. `state` is not changed.
        Returns the state after `learned` events, and the flat predictions, `[count - learned, outputs]`.
        """
        predictions = [np.zeros((0, 1), np.float32)] * (len(rows) == 0)
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            here = min(max(learned - start, 0), len(block))
            # All numbers of rows up to the same power of two run the same program.
            padded = np.zeros((max(2, 1 << (len(block) - 1).bit_length()), self._width), np.float32)
            padded[: len(block)] = block
            state, out = self._call(state, padded, np.array((here, len(block)), np.int32))
            predictions.append(np.asarray(out)[here : len(block)])
        return state, np.concatenate(predictions)

    def turn_pair(self, held: list, pair: np.ndarray, learned: int, count: int) -> None:
        """The same as `turn` for the first `count` of two rows, which are given as one vector. The state is the first
        item of the list `held`.

        Either one event is learned, or one is predicted, or both. Afterwards `held` contains the new state and both
        rows of predictions. The old state has been donated and is no longer valid.
        """
        # One assignment, which no signal can interrupt. If Ctrl-C came between the call and the storing of its results,
        # only a donated state would be left.
        held[:] = chain.from_iterable(map(self._step, held[:1], (pair,), (self._counts[learned, count],)))

    def _called(self, state, rows, counts):
        rows, (learned, count) = rows.astype(self._dtype).reshape(-1, self._width), counts

        def learn(i, carry):
            event = jax.lax.dynamic_slice_in_dim(rows, i, 1)
            return self._learner.update(carry, event[:, : self._inputs], event[:, self._inputs :])[0]

        def prediction(carry, row):
            return _flat(carry.model.predict(carry.model.cell(carry.hidden, row[: self._inputs])))

        # A loop around the loops, which runs once: unpacking and packing the state then compile together with them as
        # one function (see `small_loops`).
        def all_at_once(turn):
            _, state, out = turn
            carry = jax.lax.fori_loop(0, learned, learn, self._unpack(state))
            out = jax.lax.fori_loop(learned, count, lambda i, out: out.at[i].set(prediction(carry, rows[i])), out)
            return count, self._pack(carry), out

        shape = jax.eval_shape(lambda: prediction(self._unpack(state), rows[0])).shape
        start = jnp.int32(0), state, jnp.zeros((len(rows), *shape), jnp.float32)
        return jax.lax.while_loop(lambda turn: turn[0] < count, all_at_once, start)[1:]

    def _extrapolated(self, state, x, xs, ratio):
        """Predicts several steps ahead by feeding predictions back. The input of a step is `[level, change, *xs]`. The
        predicted change is the next step's change, and moves the level by `ratio` times the change. `x` is the first
        level and change. Returns the levels.
        """
        carry = self._unpack(state)
        x, xs, ratio = (jnp.asarray(each, self._dtype) for each in (x, xs, ratio))

        def step(moving, row):
            hidden, level, change = moving
            hidden = carry.model.cell(hidden, jnp.concatenate([jnp.stack([level, change]), row]))
            change = _flat(carry.model.predict(hidden))[0].astype(level.dtype)
            level = level + ratio * change
            return (hidden, level, change), level

        return jax.lax.scan(step, (carry.hidden, x[0], x[1]), xs)[1]

    def _pack(self, carry: PyTree) -> State:
        leaves = [_bare(leaf) for leaf in jax.tree.leaves(carry)]
        words = [_words(leaf) for leaf in leaves if leaf.size <= SMALL]
        return (*(leaf for leaf in leaves if leaf.size > SMALL), jnp.concatenate([*words, jnp.zeros(0, jnp.float32)]))

    def _unpack(self, state: State) -> Carry:
        *large, words = map(jnp.asarray, state)
        leaves, start = [], 0
        for form, impl in zip(self._forms, self._impls, strict=True):
            if form.size > SMALL:
                leaf = large.pop(0)
            else:
                size = jax.eval_shape(_words, form).size
                leaf = _from_words(words[start : start + size], form)
                start += size
            leaves.append(leaf if impl is None else jr.wrap_key_data(leaf, impl=impl))
        return jax.tree.unflatten(self._structure, leaves)


def _flat(prediction: PyTree) -> Float[Array, " outputs"]:
    return jnp.concatenate([leaf.astype(jnp.float32).ravel() for leaf in jax.tree.leaves(prediction)])


def _form(leaf) -> tuple:
    return leaf.shape, np.dtype(leaf.dtype)


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _bare(leaf) -> Array:
    return jr.key_data(leaf) if _is_key(leaf) else leaf


def _words(leaf: Shaped[Array, "..."]) -> Float[Array, " size"]:
    """The bits of an array as float32 numbers. Types of less than four bytes are converted, because float32 holds them
    exactly.
    """
    if leaf.dtype.itemsize < 4:
        return leaf.astype(jnp.float32).ravel()
    return jax.lax.bitcast_convert_type(leaf, jnp.float32).ravel()


def _from_words(words: Float[Array, " size"], like: jax.ShapeDtypeStruct) -> Array:
    """The array that was given to `_words`, with the shape and dtype of `like`; a key comes back as its numbers."""
    if like.dtype.itemsize < 4:
        return words.astype(like.dtype).reshape(like.shape)
    split = like.shape if like.dtype.itemsize == 4 else (*like.shape, 2)
    return jax.lax.bitcast_convert_type(words.reshape(split), like.dtype)
