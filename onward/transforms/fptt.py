"""FPTT's dynamic regulariser: every update is drawn to a running average of the parameters, before any optimiser."""

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
    """What the regulariser remembers. After an update it waits for the step that follows: see `settle`.

    * `step`: the number of updates made, which a schedule of α is asked with;
    * `last_alpha`, `last_beta`, `last_ratio`: what is to be settled of the last update: α for the multiplier, β and β/α
      for the average. They are 0 where nothing is, as α always is in the exact form;
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
    """FPTT's regulariser in its *running* form, which its authors ran: it goes before any optimiser.

        regularised gradient = g − λ + c α (W − W̄),    then one step of the optimiser to W'
        λ' = λ − α (W' − W̄)
        W̄' = (1 − β) W̄ + β W' − (β/α) λ',              at the start λ = 0 and W̄ = W

    for g the gradient of a window of the sequence at W, from any estimator: Kag & Saligrama, *Training recurrent neural
    networks via forward propagation through time*, ICML 2021, equation (5) with β = ½, and equation (6) with λ for the
    gradient of the last window. Equation (4) and Algorithm 2 print 1/(2α) inside the norm; (6) and the proof of
    Proposition 1 need 1/α there, which is what this is. λ and W̄ wait for W', which is first seen at the next call, and
    are carried on through windows, sequences and epochs. The recursion makes λ the gradient at W' only if the optimiser
    solves the window's problem (and c = 1); after a single step it is a filter of the last steps. `fptt_exact` takes
    the gradient.

    **Proposition 1 is weaker than it reads.** It assumes that W converges. At a fixed α it can only where every
    window's gradient vanishes, and there plain gradient steps converge too. Otherwise all forms keep cycling; a growing
    α, with each window's problem solved, does converge. After one step of SGD a window, at β = ½, c = 1 and curvature
    1, this form cycles more widely than without the regulariser, and is stable up to a rate of 10/(5 + 6α) only, where
    plain descent is up to 2. (The exact form differs in both: see `fptt_exact`.) So run the same windows without it for
    comparison.

    **How it drags.** By SGD at a rate η, with β = ½ and c ≤ 2, a gradient g that stays the same becomes in the long run
    g / (1 + (2 − c) α η), for α η < 5/(2 + c): a large α slows learning down, but not at c = 2, which is stable up to a
    smaller rate. A momentum μ makes η/(1 − μ) of η and moves that limit. For Adam read η as its rate over the root of a
    weight's second moment: most is lost where gradients are small.

    **Arguments:**

    - `alpha`: α, finite and above 0, or a schedule of the number of updates made. A schedule or a traced value that is
      not positive makes the updates NaN.
    - `beta`: β in (0, 1]; ½ in the paper.
    - `proximal`: c, finite and at least 0, the factor of the proximal term: 1 in the paper; its authors' code has 1 for
      images and 2 for words.

    Raises `ValueError` for a number out of range, a schedule that does not start above 0, or an update without
    parameters.

    A clip belongs after it, for it is the full regularised gradient that is clipped. FPTT-K, K updates a sequence, is
    `onward.BPTT()` in chunks of a K-th of the sequence with this:

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
    """`regulariser`: λ, always up to date, and W̄; `optimizer`: the state of the optimiser within."""

    regulariser: FPTTState
    optimizer: PyTree


def fptt_exact(
    optimizer: optax.GradientTransformation,
    alpha: float | Float[Array, ""] | Callable,
    beta: float | Float[Array, ""] = 0.5,
    proximal: float | Float[Array, ""] = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """FPTT with `optimizer` in its *exact* form, the paper's algorithm: λ is the window's gradient at the new point.

        regularised gradient = g − λ + c α (W − W̄),    then one step of `optimizer` to W'
        λ' = the gradient of the same window at W'
        W̄' = (1 − β) W̄ + β W' − (β/α) λ'

    Algorithm 2 and equation (5) of Kag & Saligrama, *Training recurrent neural networks via forward propagation through
    time*, ICML 2021, with 1/α for the 1/(2α) in the norm: see `fptt`, also for the arguments and for what Proposition 1
    does not say. It costs one more gradient a window, and so wraps the optimiser, with its clip, instead of going
    before it. `update` takes the extra argument `grad_fn`: the gradient of the window as a function of the parameters,
    from the hidden state in which the window was entered. What is done to the updates afterwards is not known to λ: do
    it within. It regularises all parameters; `optax.masked` around it does not fit `grad_fn`.

    A gradient g that stays the same becomes in the long run c g / (1 + c α η), for c α η < 3; see `fptt`, how it drags:
    at c = 1 this form always drags, and another c takes another multiple of small gradients.

    At a fixed α it keeps cycling, like the running form, but after one step of SGD a window (β = ½, c = 1, curvature 1)
    it does so more widely than without the regulariser only at rates η < 2/(2 − α), and it is stable up to a rate of
    6/(1 + 2α): for α < 1 above plain descent's 2.

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
        # W̄ waits for the parameters that are reached in fact: a learner leaves its model's constants where they are.
        waiting = last._replace(last_alpha=jnp.zeros_like(last.last_alpha), multiplier=lam)
        return updates, FPTTExactState(waiting, optimizer_state)

    return optax.GradientTransformationExtraArgs(init, update)


def settle(params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    """λ and W̄ up to date with `params`, W', which the last update has led to; both shaped like it.

        λ' = λ − α (W' − W̄),    or, in the exact form, the gradient at W',
        W̄' = (1 − β) W̄ + β W' − (β/α) λ'

    the updates of Kag & Saligrama 2021, equations (5) and (6), which wait in the state for W': see `fptt`. `state` is
    the state of `fptt`, of `fptt_exact`, or of any optimiser that holds exactly one of them; otherwise this raises
    `ValueError`. Where `optax.masked` left parameters out, the results have `optax.MaskedNode`.

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
    """The parameters and the state with W ← W̄ and λ ← 0: what the paper's authors do at the end of every epoch, by
    their published code; the paper does not say so.

    With `keep_multiplier` λ goes on as it is: what they do for word-level language modelling. `state` as in `settle`,
    `ValueError` too; all else in it, such as the optimiser's moments, stays. For the carry of an `onward.Learner` there
    is `onward.sequences.reset_to_average`.

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
    # A copy, lest the same buffer be given away twice where buffers are donated.
    return FPTTState(jnp.zeros((), jnp.int32), zero, zero, zero, zeros_like(params), jax.tree.map(jnp.array, params))


def _regularise(updates, state: FPTTState, params, alpha, beta, proximal) -> tuple[PyTree, FPTTState]:
    """The regularised gradient, and the state as it waits for the step."""
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
    """The one state of a regulariser that an optimiser's state holds somewhere in its tree."""
    states = [node for node in jax.tree.leaves(state, is_leaf=_is_state) if _is_state(node)]
    if len(states) != 1:
        raise ValueError(f"state must hold the state of exactly one fptt or fptt_exact, it holds {len(states)}.")
    return states[0]


def _is_state(node):
    return isinstance(node, FPTTState)


def _is_left_out(node):
    # By `optax.masked`, or as what is no learnable number.
    return node is None or isinstance(node, optax.MaskedNode)


def _map(function, tree, *rest):
    """`jax.tree.map` that leaves alone what `tree` leaves out, whatever the others hold there."""

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
