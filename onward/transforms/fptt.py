"""FPTT's dynamic regulariser: the filter of gradients behind what its paper calls a running average of the weights."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from ..support.arguments import above_zero, at_least_zero, number, unless_traced
from ..support.trees import zeros_like


class FPTTState(NamedTuple):
    """The state of the regulariser. An update can only be completed once the optimiser's step is known: see `settle`.

    * `step`: the number of updates made, the argument of a schedule of α;
    * `last_alpha`, `last_beta`, `last_ratio`: the numbers to complete the last update with: α for the multiplier, β and
      β/α for the average. They are 0 if nothing is left to complete. In the exact form `last_alpha` is always 0;
    * `multiplier`: λ, shaped like the parameters;
    * `average`: W̄, shaped like the parameters.
    """

    step: Int[Array, ""]
    last_alpha: Float[Array, ""]
    last_beta: Float[Array, ""]
    last_ratio: Float[Array, ""]
    multiplier: PyTree
    average: PyTree


def fptt(
    alpha: float | Float[Array, ""] | Callable,
    beta: float | Float[Array, ""] = 0.5,
    proximal: float | Float[Array, ""] = 1.0,
) -> optax.GradientTransformation:
    """FPTT's regulariser in its *running* form, the form that its authors ran. It goes before any optimiser.

        regularised gradient = g − λ + c α (W − W̄),    then one step of the optimiser to W'
        λ' = λ − α (W' − W̄)
        W̄' = (1 − β) W̄ + β W' − (β/α) λ',              at the start λ = 0 and W̄ = W

    where g is the gradient of a window of the sequence at W, from any estimator. This is Kag & Saligrama, *Training
    recurrent neural networks via forward propagation through time*, ICML 2021: equation (5) with β = ½, and equation
    (6) with λ in place of the gradient of the last window. Equation (4) and Algorithm 2 print 1/(2α) inside the norm,
    but (6) and the proof of Proposition 1 need 1/α; we use 1/α.

    λ and W̄ need W', which is only known at the next call. They continue through windows, sequences and epochs. The
    recursion makes λ equal to the gradient at W' only if the optimiser solves the window's problem (and c = 1). After a
    single step, λ is a filter of the last steps. `fptt_exact` uses the gradient itself.

    **W̄ is not an average over time.** With β = ½, `W̄ = W − λ₋/(2α)`, where λ₋ is the multiplier of the update before.
    If W drifts steadily, W̄ is one step ahead of W. The regularised gradient is `g − λ + (c/2) λ₋`, so that with SGD
    the regulariser is a linear filter of the gradients. With a = α η for a rate η, and no momentum:

        gain, of a gradient that stays the same:    1 / (1 + (2 − c) a)
        noise, of independent gradients, c = 1:     (5 + 7a + 6a²) / ((1 + a)² (5 − 3a))
        noise, of independent gradients, c = 2:     (5 + 6a) / ((1 + 2a) (5 − 4a))
        stable for a given stream of gradients:     a < 5/(2 + c)
        stable on a quadratic of curvature 1:       η < 10 / (5 + 2 (2 + c) α)

    `onward.transforms.FPTTFilter` has these numbers for any c, and with SGD's momentum, and the momentum and rate with
    the same gain and noise. Train with that momentum too before you credit the average.

    **Proposition 1 is weaker than it reads.** It assumes that W converges. At a fixed α, W can converge only if the
    gradients of all windows vanish, and then plain gradient descent converges too. Otherwise all forms keep cycling.
    With a growing α, and each window's problem solved, W does converge. Take one step of SGD per window, with β = ½, c
    = 1 and curvature 1: this form then cycles more widely than without the regulariser, and is stable only up to a rate
    of 10/(5 + 6α); plain descent is stable up to 2. (The exact form differs in both: see `fptt_exact`.) Therefore run
    the same windows without the regulariser for comparison.

    **How it drags.** Take SGD with a rate η, β = ½ and c ≤ 2. A constant gradient g becomes g / (1 + (2 − c) α η) in
    the long run, if α η < 5/(2 + c). A large α therefore slows learning down, except at c = 2, which is stable only up
    to a smaller rate. With a momentum μ, read η/(1 − μ) for η; the limit changes too. With Adam, read η as its rate
    divided by the root of the weight's second moment. So learning slows down most for weights with small gradients.

    **Arguments:**

    - `alpha`: α, finite and above 0, or a schedule of the number of updates made. If a schedule or a traced value is
      not positive, the updates are NaN.
    - `beta`: β in (0, 1], the share of the new weights in W̄; ½ in the paper. The paper has another β, the trust q/K in
      the last target's term of a window's loss: `onward.Terminal` computes that one, in
      `onward/sequences/terminal.py`.
    - `proximal`: c, the factor of the proximal term, finite and at least 0; 1 in the paper. The authors' code has 1 for
      images and 2 for words and characters.

    Raises `ValueError` for a number out of range, a schedule that does not start above 0, or an update without
    parameters.

    Put a clip after it, because the whole regularised gradient is to be clipped. FPTT-K, with K updates per sequence,
    is `onward.BPTT()` with a chunk of a K-th of the sequence and this optimiser:

        >>> import equinox as eqx, jax, jax.random as jr, onward, optax
        >>> from onward.transforms.fptt import fptt
        >>> optimizer = optax.chain(fptt(alpha=0.1), optax.clip_by_global_norm(1.0), optax.adam(3e-2))
        >>> loss = onward.losses.softmax_cross_entropy
        >>> learner = onward.Learner(onward.BPTT(), optimizer, loss=loss, chunk=4)
        >>> cell = onward.VanillaCell(4, 8, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(8, 4, key=jr.key(1)))
        >>> ys = jax.numpy.arange(800) % 4                                 # a wheel: predict the next symbol
        >>> xs = jax.nn.one_hot(ys - 1, 4)
        >>> carry, metrics = learner.run(learner.init(model, key=jr.key(2)), xs, ys)
        >>> metrics.losses[:20].mean() > 1 > metrics.losses[-20:].mean()
        Array(True, dtype=bool)
    """
    _check_all(alpha, beta, proximal)

    def update(updates: PyTree, state: Any, params: PyTree = None):
        return _regularise(updates, state, params, alpha, beta, proximal)

    return optax.GradientTransformation(_start, update)


class FPTTExactState(NamedTuple):
    """`regulariser`: λ, always up to date, and W̄; `optimizer`: the state of the wrapped optimiser."""

    regulariser: FPTTState
    optimizer: PyTree


def fptt_exact(
    optimizer: optax.GradientTransformation,
    alpha: float | Float[Array, ""] | Callable,
    beta: float | Float[Array, ""] = 0.5,
    proximal: float | Float[Array, ""] = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """FPTT around `optimizer` in its *exact* form, the paper's algorithm: λ is the window's gradient at the new point.

        regularised gradient = g − λ + c α (W − W̄),    then one step of `optimizer` to W'
        λ' = the gradient of the same window at W'
        W̄' = (1 − β) W̄ + β W' − (β/α) λ'

    Algorithm 2 and equation (5) of Kag & Saligrama, *Training recurrent neural networks via forward propagation through
    time*, ICML 2021, with 1/α instead of 1/(2α) in the norm. See `fptt` for the reason, for the arguments, and for the
    limits of Proposition 1.

    This form takes one more gradient per window. It therefore wraps the optimiser, including its clip, instead of going
    before it. `update` takes the extra argument `grad_fn`: the gradient of the window as a function of the parameters,
    from the hidden state at the start of the window. λ does not see what is done to the updates afterwards, so do it
    inside `optimizer`. All parameters are regularised; `optax.masked` around this does not fit `grad_fn`.

    A constant gradient g becomes c g / (1 + c α η) in the long run, if c α η < 3 (compare "How it drags" of `fptt`). At
    c = 1 this form always slows learning down. Another c multiplies small gradients by c.

    At a fixed α it keeps cycling, like the running form. Take one step of SGD per window (β = ½, c = 1, curvature 1):
    it cycles more widely than without the regulariser only at rates η < 2/(2 − α). It is stable up to a rate of 6/(1 +
    2α), which for α < 1 is above the 2 of plain descent.

    Raises `ValueError` as `fptt` does, and for an update without `grad_fn`.

        >>> import jax, jax.numpy as jnp, optax
        >>> from onward.transforms.fptt import fptt_exact
        >>> grad_fn = jax.grad(lambda W: jnp.sum((W - 1) ** 2))            # a window's loss
        >>> optimizer = fptt_exact(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), alpha=0.5)
        >>> W = jnp.zeros(2)
        >>> state = optimizer.init(W)
        >>> updates, state = optimizer.update(grad_fn(W), state, W, grad_fn=grad_fn)
        >>> W = optax.apply_updates(W, updates)
        >>> jnp.array_equal(state.regulariser.multiplier, grad_fn(W))
        Array(True, dtype=bool)
    """
    _check_all(alpha, beta, proximal)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree):
        return FPTTExactState(_start(params), inner.init(params))

    def update(updates: PyTree, state: Any, params: PyTree = None, *, grad_fn: Callable | None = None, **extra_args):
        if grad_fn is None:
            raise ValueError("fptt_exact needs update(grads, state, params, grad_fn=...), got no grad_fn.")
        updates, last = _regularise(updates, state.regulariser, params, alpha, beta, proximal)
        updates, optimizer_state = inner.update(updates, state.optimizer, params, **extra_args)
        W_next = optax.apply_updates(params, updates)
        lam = _map(lambda lam, g: g.astype(lam.dtype), last.multiplier, grad_fn(W_next))
        # W̄ uses the parameters that are actually reached: a learner does not move its model's constants.
        waiting = last._replace(last_alpha=jnp.zeros_like(last.last_alpha), multiplier=lam)
        return updates, FPTTExactState(waiting, optimizer_state)

    return optax.GradientTransformationExtraArgs(init, update)


def settle(params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    """λ and W̄, brought up to date with `params`: the parameters W' after the last update. Both are shaped like
    `params`.

        λ' = λ − α (W' − W̄),    or, in the exact form, the gradient at W',
        W̄' = (1 − β) W̄ + β W' − (β/α) λ'

    These updates are equations (5) and (6) of Kag & Saligrama 2021. They need W', which `fptt` itself does not see
    before the next call. `state` is the state of `fptt`, of `fptt_exact`, or of any optimiser that holds exactly one of
    them. Otherwise this raises `ValueError`. Parameters that `optax.masked` left out are `optax.MaskedNode` in the
    results.

        >>> import jax.numpy as jnp, optax
        >>> from onward.transforms.fptt import fptt, settle
        >>> optimizer = optax.chain(fptt(alpha=0.5), optax.sgd(0.5))
        >>> W = jnp.zeros(())
        >>> updates, state = optimizer.update(jnp.ones(()), optimizer.init(W), W)
        >>> multiplier, average = settle(W + updates, state)               # W' = −0.5
        >>> float(multiplier), float(average)
        (0.25, -0.5)
    """
    state = _only(state)
    lam = _map(lambda lam, W_bar, W: lam - _times(state.last_alpha, W - W_bar), state.multiplier, state.average, params)

    def average_in(W_bar, W, lam):
        return W_bar + _times(state.last_beta, W - W_bar) - _times(state.last_ratio, lam)

    return lam, _map(average_in, state.average, params, lam)


def adopt_average(params: PyTree, state: PyTree, *, keep_multiplier: bool = False) -> tuple[PyTree, PyTree]:
    """The parameters and the state after W ← W̄ and λ ← 0. The authors' published code does this at the end of every
    epoch; the paper does not say so.

    With `keep_multiplier` λ is kept, as in the authors' code for PTB-300 and for characters. `state` is as in
    `settle`, and so is the `ValueError`. Everything else in it stays, such as the optimiser's moments. For the carry of
    an `onward.Learner` use `onward.sequences.reset_to_average`.

        >>> import jax.numpy as jnp, optax
        >>> from onward.transforms.fptt import adopt_average, fptt, settle
        >>> optimizer = optax.chain(fptt(alpha=0.5), optax.sgd(0.5))
        >>> W = jnp.zeros(())
        >>> updates, state = optimizer.update(jnp.ones(()), optimizer.init(W), W)
        >>> W, state = adopt_average(W + updates, state)
        >>> float(W), [float(number) for number in settle(W, state)]
        (-0.5, [0.0, -0.5])
    """
    lam, W_bar = settle(params, state)
    last, zero = _only(state), jnp.zeros((), float)
    last = FPTTState(last.step, zero, zero, zero, lam if keep_multiplier else zeros_like(lam), W_bar)
    params = jax.tree.map(lambda m, W: W if _is_left_out(m) else jnp.array(m), W_bar, params, is_leaf=_is_left_out)
    return params, jax.tree.map(lambda node: last if _is_state(node) else node, state, is_leaf=_is_state)


def _start(params: PyTree) -> FPTTState:
    zero = jnp.zeros((), float)
    # A copy, because a buffer must not be donated twice.
    return FPTTState(jnp.zeros((), jnp.int32), zero, zero, zero, zeros_like(params), jax.tree.map(jnp.array, params))


def _regularise(updates, state: FPTTState, params, alpha, beta, proximal) -> tuple[PyTree, FPTTState]:
    """The regularised gradient, and the state until the optimiser's step is known."""
    if params is None:
        raise ValueError("fptt regularises the parameters: call update(grads, state, params), got no params.")
    alpha_q = jnp.asarray(alpha(state.step) if callable(alpha) else alpha, float)
    alpha_q = jnp.where(alpha_q > 0, alpha_q, jnp.nan)
    c_alpha = jnp.asarray(proximal, float) * alpha_q
    multiplier, average = settle(params, state)

    def regularised(lam, W_bar, W, g):
        return g + (_times(c_alpha, W - W_bar) - lam).astype(g.dtype)

    updates = _map(regularised, multiplier, average, params, updates)
    step = jnp.asarray(optax.safe_increment(state.step))
    beta = jnp.asarray(beta, float)
    return updates, FPTTState(step, alpha_q, beta, beta / alpha_q, multiplier, average)


def _only(state) -> FPTTState:
    """The single regulariser state that an optimiser's state holds, somewhere in its tree."""
    states = [node for node in jax.tree.leaves(state, is_leaf=_is_state) if _is_state(node)]
    if len(states) != 1:
        raise ValueError(f"state must hold the state of exactly one fptt or fptt_exact, it holds {len(states)}.")
    return states[0]


def _is_state(node):
    return isinstance(node, FPTTState)


def _is_left_out(node):
    # Left out by `optax.masked`, or because it is not a trainable number.
    return node is None or isinstance(node, optax.MaskedNode)


def _map(function, tree, *rest):
    """`jax.tree.map` that skips the places that `tree` leaves out, whatever the other trees hold there."""

    def mapped(leaf, *others):
        return leaf if _is_left_out(leaf) else function(leaf, *others)

    return jax.tree.map(mapped, tree, *rest, is_leaf=_is_left_out)


def _times(number, array):
    return number.astype(array.dtype) * array


def _check_all(alpha, beta, proximal):
    start = alpha(jnp.zeros((), jnp.int32)) if callable(alpha) else alpha
    name = "a schedule's alpha at the first update" if callable(alpha) else "alpha"
    unless_traced(above_zero, name, start)
    unless_traced(partial(number, holds=lambda value: 0 < value <= 1, wanted="in (0, 1]"), "beta", beta)
    unless_traced(at_least_zero, "proximal", proximal)
