"""FPTT's regulariser against a direct loop, and what it does and does not converge to. float64."""

import functools
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import assert_identical, assert_same, naive_gradient, problem
from problems import loss as step_loss

import onward
from onward.cells.affine import constants_at_zero
from onward.transforms.fptt import FPTTState, adopt_average, fptt, fptt_exact, settle

pytestmark = [pytest.mark.usefixtures("promotion"), pytest.mark.product("name", "exact")]

WINDOWS = 50
SGD, ADAM = optax.sgd(0.2), optax.adam(0.05)
DECAY = optax.adamw(0.05, weight_decay=0.1)
BASES = pytest.mark.parametrize("base", [SGD, ADAM], ids=["sgd", "adam"])


def growing(count):
    return 0.1 + 0.05 * count**0.7


def constant(count):
    return 0.5


def start():
    rng = np.random.default_rng(0)
    return {"weight": jnp.array(rng.normal(size=(3, 2))), "bias": jnp.array(rng.normal(size=3))}


def all_windows():
    rng = np.random.default_rng(1)
    return rng.normal(size=(WINDOWS, 2)), np.tanh(rng.normal(size=(WINDOWS, 3)))


def nonlinear(params, window):
    x, y = window
    return jnp.sum((jnp.tanh(params["weight"] @ x + params["bias"]) - y) ** 2)


def quadratic(W, target):
    return jnp.sum((W - target) ** 2) / 2


def one_update(optimizer, loss, carry, window):
    params, state = carry

    def grad_fn(params):
        return jax.grad(loss)(params, window)

    update = optax.with_extra_args_support(optimizer).update
    updates, state = update(grad_fn(params), state, params, grad_fn=grad_fn)
    params = optax.apply_updates(params, updates)
    return (params, state), flat(params)


def train(optimizer, params=None, state=None, windows=None) -> tuple[Any, Any, jax.Array]:
    """Parameters and state at the end, and the parameters after every update, one flat row each."""
    params = start() if params is None else params
    state = optimizer.init(params) if state is None else state
    carry = params, state
    carry, visited = jax.lax.scan(partial(one_update, optimizer, nonlinear), carry, windows or all_windows())
    return *carry, visited


@jax.jit
def gradient(W, window):
    """For the direct loops: of a window's loss, on flat parameters."""
    return flat(jax.grad(nonlinear)(ravel_pytree(start())[1](W), window))


@functools.cache
def compiled(base):
    return jax.jit(base.update)


def direct(
    base,
    alpha=constant,
    *,
    beta=0.5,
    proximal=1.0,
    clip=np.inf,
    regularise: Any = 1.0,
    adopt_at=None,
    keep=False,
    shift=0.0,
):
    """The loop as it is written down, with W, λ and W̄ as flat vectors: their rows after every update."""
    W = W_bar = np.asarray(flat(start())) + shift
    state, update = base.init(W), compiled(base)
    lam = np.zeros_like(W)
    rows = []
    for q, window in enumerate(zip(*all_windows(), strict=True)):
        if q == adopt_at:
            W, lam = W_bar, lam * keep
        alpha_q = float(alpha(float(q)))
        regularised = gradient(W, window) + regularise * (proximal * alpha_q * (W - W_bar) - lam)
        regularised = regularised * min(1.0, clip / np.linalg.norm(regularised))
        increment, state = update(regularised, state, W)
        W = np.asarray(W + increment)
        lam = lam - alpha_q * (W - W_bar)
        W_bar = (1 - beta) * W_bar + beta * W - beta / alpha_q * lam
        rows.append((W, lam, W_bar))
    return tuple(np.stack(column) for column in zip(*rows, strict=True))


def flat(tree):
    return ravel_pytree(tree)[0]


def assert_close(actual, expected, tolerance=1e-12):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


class TestRunningForm:
    @BASES
    @pytest.mark.parametrize("alpha", [constant, growing])
    def test_settled_lazily_it_is_the_direct_loop(self, base, alpha):
        optimizer = optax.chain(fptt(alpha), base)
        params, state, visited = jax.jit(lambda: train(optimizer))()
        W, lam, W_bar = direct(base, alpha)
        assert_close(visited, W)
        assert_close(flat(settle(params, state)), np.concatenate([lam[-1], W_bar[-1]]))

    def test_beta_and_the_proximal_factor(self):
        params, state, visited = train(optax.chain(fptt(growing, beta=0.3, proximal=2.0), optax.sgd(0.1)))
        W, lam, W_bar = direct(optax.sgd(0.1), growing, beta=0.3, proximal=2.0)
        assert_close(visited, W)
        assert_close(flat(settle(params, state)), np.concatenate([lam[-1], W_bar[-1]]))

    def test_call_by_call_without_compilation(self):
        optimizer = optax.chain(fptt(growing), SGD)
        W, lam, W_bar = direct(SGD, growing)
        carry = start(), optimizer.init(start())
        for q in range(4):
            carry, visited = one_update(optimizer, nonlinear, carry, tuple(array[q] for array in all_windows()))
            assert_close(visited, W[q])
            assert_close(flat(settle(*carry)), np.concatenate([lam[q], W_bar[q]]))

    def test_a_clip_after_it_is_of_the_regularised_gradient(self):
        _, _, visited = train(optax.chain(fptt(growing), optax.clip_by_global_norm(0.5), ADAM))
        assert_close(visited, direct(ADAM, growing, clip=0.5)[0])

    def test_masked_it_leaves_the_others_alone(self):
        optimizer = optax.chain(optax.masked(fptt(growing), {"weight": True, "bias": False}), SGD)
        params, state, visited = train(optimizer)
        # Flat trees have their keys in order: the bias comes first.
        regularise = np.array([0.0] * 3 + [1.0] * 6)
        W, lam, W_bar = direct(SGD, growing, regularise=regularise)
        assert_close(visited, W)
        settled = settle(params, state)
        assert isinstance(settled[0]["bias"], optax.MaskedNode)
        assert_close(flat(settled), np.concatenate([lam[-1, 3:], W_bar[-1, 3:]]))
        adopted, _ = adopt_average(params, state)
        assert_close(flat(adopted), np.concatenate([W[-1, :3], W_bar[-1, 3:]]))

    @BASES
    def test_many_side_by_side_masked_and_clipped(self, base):
        """Under jit, vmap and scan at once."""
        masked = optax.masked(fptt(growing), {"weight": True, "bias": False})
        optimizer = optax.chain(masked, optax.clip_by_global_norm(0.5), base)
        shifts = np.array([0.0, 0.3])

        @jax.jit
        @jax.vmap
        def side_by_side(shift):
            params, state, visited = train(optimizer, jax.tree.map(lambda leaf: leaf + shift, start()))
            return visited, flat(settle(params, state))

        visited, settled = side_by_side(shifts)
        regularise = np.array([0.0] * 3 + [1.0] * 6)
        for i, shift in enumerate(shifts):
            W, lam, W_bar = direct(base, growing, clip=0.5, regularise=regularise, shift=shift)
            assert_close(visited[i], W)
            assert_close(settled[i], np.concatenate([lam[-1, 3:], W_bar[-1, 3:]]))

    def test_a_sweep_over_alpha(self):
        optimizer = optax.chain(optax.inject_hyperparams(fptt)(alpha=0.7), SGD)

        @jax.jit
        @jax.vmap
        def sweep(alpha):
            params, state, visited = train(optimizer, state=optax.tree.set(optimizer.init(start()), alpha=alpha))
            return visited, flat(settle(params, state)), train(optax.chain(fptt(alpha), SGD))[2]

        alphas = np.array([0.05, 0.5, 1.0])
        visited, settled, visited_traced = sweep(alphas)
        for i, alpha in enumerate(alphas):
            W, lam, W_bar = direct(SGD, lambda count, alpha=alpha: alpha)
            assert_close(visited[i], W)
            assert_close(settled[i], np.concatenate([lam[-1], W_bar[-1]]))
        assert_close(visited_traced, visited)

    def test_an_injected_schedule(self):
        injected = optax.chain(optax.inject_hyperparams(fptt)(alpha=growing), SGD)
        assert_close(train(injected)[2], direct(SGD, growing)[0])

    def test_an_epoch_may_end_at_the_average(self):
        epoch = jax.jit(partial(train, optax.chain(fptt(growing, beta=0.7), ADAM)))
        first, second = (tuple(array[part] for array in all_windows()) for part in (slice(0, 25), slice(25, None)))
        ended = epoch(start(), optax.chain(fptt(growing), ADAM).init(start()), first)[:2]
        for keep in (False, True):
            params, state, visited = epoch(*adopt_average(*ended, keep_multiplier=keep), second)
            W, lam, W_bar = direct(ADAM, growing, beta=0.7, adopt_at=25, keep=keep)
            assert_close(visited, W[25:])
            assert_close(flat(settle(params, state)), np.concatenate([lam[-1], W_bar[-1]]))

    def test_it_filters_the_last_steps(self):
        """`λ' = λ − (α/2α₋) λ₋ − α (W' − W)` and `W̄ = W − λ₋/(2α₋)`, with `₋` for the window before."""
        optimizer = optax.chain(fptt(growing), SGD)

        def update(carry, window):
            carry, W = one_update(optimizer, nonlinear, carry, window)
            lam, W_bar = settle(*carry)
            return carry, (W, flat(lam), flat(W_bar))

        _, (W, lam, W_bar) = jax.lax.scan(update, (start(), optimizer.init(start())), all_windows())
        alpha = growing(np.arange(float(WINDOWS)))[:, None]
        filtered = lam[:-1] - alpha[1:] * (W[1:] - W[:-1])
        assert_close(lam[1], filtered[0])
        assert_close(lam[2:], filtered[1:] - alpha[2:] / (2 * alpha[1:-1]) * lam[:-2])
        assert_close(W_bar[0], W[0])
        assert_close(W_bar[1:], W[1:] - lam[:-1] / (2 * alpha[1:]))

    def test_so_its_gradient_needs_no_average(self):
        """At a fixed α the regularised gradient is `g − λ + (c/2) λ₋`."""
        regulariser = fptt(0.5, proximal=2.0)
        params, (before, _), _ = train(optax.chain(regulariser, SGD))
        now: Any
        updates, now = regulariser.update(jax.tree.map(jnp.zeros_like, params), before, params)
        assert_close(flat(updates), -flat(now.multiplier) + 2.0 / 2 * flat(before.multiplier))

    def test_what_is_no_number_to_learn_is_passed_through(self):
        model = eqx.nn.MLP(2, 2, 3, 1, key=jr.key(0))  # holds functions, too
        optimizer = optax.chain(fptt(0.5), SGD)
        learned = eqx.filter(model, eqx.is_inexact_array)
        updates, state = optimizer.update(learned, optimizer.init(learned), learned)
        model = eqx.apply_updates(model, updates)
        adopted, state = adopt_average(model, state)
        assert adopted.activation is model.activation
        assert_same(eqx.filter(adopted, eqx.is_inexact_array), settle(model, state)[1])


def running_form(rate, alpha, proximal):
    return optax.chain(fptt(alpha, proximal=proximal), optax.sgd(rate))


def exact_form(rate, alpha, proximal):
    return fptt_exact(optax.sgd(rate), alpha, proximal=proximal)


class TestExactForm:
    @BASES
    def test_it_is_the_direct_loop(self, base):
        params, state, visited = train(fptt_exact(base, growing, beta=0.3, proximal=2.0))
        W = W_bar = np.asarray(flat(start()))
        base_state, update, lam = base.init(W), compiled(base), 0 * W
        for q, window in enumerate(zip(*all_windows(), strict=True)):
            alpha = growing(float(q))
            increment, base_state = update(gradient(W, window) - lam + 2 * alpha * (W - W_bar), base_state, W)
            W = np.asarray(W + increment)
            lam = np.asarray(gradient(W, window))
            W_bar = 0.7 * W_bar + 0.3 * W - 0.3 / alpha * lam
            assert_close(visited[q], W)
        assert_close(flat(settle(params, state)), np.concatenate([lam, W_bar]))

    def test_both_forms_agree_where_each_window_is_solved(self):
        rng = np.random.default_rng(2)
        factor, targets = rng.normal(size=(4, 4)), rng.normal(size=(WINDOWS, 4))
        curvature = factor @ factor.T + np.eye(4)

        def loss(W, target):
            return (W - target) @ curvature @ (W - target) / 2

        def paths(proximal):
            inverse = np.linalg.inv(curvature + proximal * 0.7 * np.eye(4))
            # On a quadratic one step of Newton's method arrives.
            newton = optax.stateless(lambda updates, _: -(inverse @ updates))
            running = optax.chain(fptt(0.7, proximal=proximal), newton)
            exact = fptt_exact(newton, 0.7, proximal=proximal)
            for optimizer in (running, exact):
                carry = jnp.zeros(4), optimizer.init(jnp.zeros(4))
                carry, visited = jax.lax.scan(partial(one_update, optimizer, loss), carry, targets)
                yield np.concatenate([flat(visited), flat(settle(*carry))])

        running, exact = paths(1.0)
        assert_close(running, exact)
        running, exact = paths(2.0)
        assert np.abs(running - exact).max() > 0.1  # λ then misses the factor c

    @pytest.mark.parametrize("proximal", [0.5, 1.0, 2.0])
    def test_what_becomes_of_a_gradient_that_stays_the_same(self, proximal):
        rate, alpha = 0.2, 0.7
        running, exact = (form(rate, alpha, proximal) for form in (running_form, exact_form))
        ends = {running: 1 / (1 + (2 - proximal) * alpha * rate), exact: proximal / (1 + proximal * alpha * rate)}
        for optimizer, end in ends.items():
            carry = jnp.zeros(()), optimizer.init(jnp.zeros(()))
            _, visited = jax.lax.scan(partial(one_update, optimizer, lambda W, _: W), carry, jnp.zeros(100))
            np.testing.assert_allclose(visited[-2] - visited[-1], rate * end, rtol=1e-10)

    @pytest.mark.parametrize("proximal", [0.5, 1.0, 2.0])
    def test_up_to_which_rate_a_steady_gradient_comes_to_that(self, proximal):
        def last_change(optimizer):
            carry = jnp.zeros(()), optimizer.init(jnp.zeros(()))
            _, visited = jax.lax.scan(partial(one_update, optimizer, lambda W, _: W), carry, jnp.zeros(2000))
            return abs(np.diff(np.ravel(visited), n=2)[-1])

        alpha = 0.7
        for limit, form in ((5 / (2 + proximal), running_form), (3 / proximal, exact_form)):
            assert last_change(form(0.98 * limit / alpha, alpha, proximal)) < 1e-6
            assert last_change(form(1.02 * limit / alpha, alpha, proximal)) > 1e6

    def test_it_takes_part_in_chains_sweeps_and_epochs(self):
        within = optax.chain(optax.clip_by_global_norm(0.5), SGD)
        plain = train(fptt_exact(within, 0.4))
        chained = optax.chain(optax.identity(), optax.inject_hyperparams(fptt_exact)(within, alpha=0.9))
        state = optax.tree.set(chained.init(start()), alpha=jnp.array(0.4))
        params, state, visited = train(chained, state=state)
        assert_close(visited, plain[2])
        _, average = settle(params, state)
        params, state = adopt_average(params, state)
        assert_identical((params, settle(params, state)[1]), (average, average))


FORWARD = {
    "rtrl": onward.RTRL(),
    "nobacktrack": onward.NoBackTrack(),
    "uoro": onward.UORO(),
    "snap": onward.SnAp(order=1),
    "sliding": onward.SlidingBPTT(horizon=3),
}


class TestThroughTheLearner:
    """FPTT-K on windows of a stream with a reset and weights, the hidden state carried from one to the next."""

    STEPS, WINDOW = 16, 4

    def stream(self):
        reset = jnp.arange(self.STEPS) == 5
        return problem("leaky", units=2, steps=self.STEPS), reset, jnp.linspace(0.5, 2.0, self.STEPS)

    def run(self, optimizer, p, reset, weight, traces=None):
        def counted(prediction, y):
            if traces is not None:
                traces.append(1)
            return step_loss(prediction, y)

        learner = onward.Learner(onward.BPTT(), optimizer, loss=counted, chunk=self.WINDOW)
        carry = learner.init(p.model, key=jr.key(0))
        carry, _ = jax.jit(lambda carry: learner.run(carry, p.xs, p.ys, reset=reset, weight=weight))(carry)
        return carry

    def loop(self, p, reset, weight, alpha, exact):
        """As it is written down: parameters, λ and W̄ as flat vectors, the leak among them but never moved."""
        parameters, static = eqx.partition(p.model, eqx.is_inexact_array)
        start, unravel = ravel_pytree(parameters)
        learned = flat(constants_at_zero(jax.tree.map(jnp.ones_like, parameters)))

        def model(W):
            return eqx.combine(unravel(W), static)

        @jax.jit
        def window_gradient(W, hidden, *window):
            return learned * flat(naive_gradient(model(W), hidden, *window))

        W, W_bar, lam, state, hidden = start, start, 0 * start, DECAY.init(start), p.cell.init_hidden()
        for q in range(0, self.STEPS, self.WINDOW):
            window = tuple(leaf[q : q + self.WINDOW] for leaf in (p.xs, p.ys, reset, weight))
            g = window_gradient(W, hidden, *window)
            increment, state = compiled(DECAY)(g - lam + alpha * (W - W_bar), state, W)
            entered, hidden = hidden, onward.rollout(model(W).cell, hidden, window[0], reset=window[2])
            hidden = jax.tree.map(lambda leaf: leaf[-1], hidden)
            W = W + learned * increment
            lam = window_gradient(W, entered, *window) if exact else lam - alpha * (W - W_bar)
            W_bar = 0.5 * W_bar + 0.5 * W - 0.5 / alpha * lam
        return W, lam, W_bar

    @pytest.mark.parametrize("exact", [False, True], ids=["running", "exact"])
    def test_it_is_the_direct_loop(self, exact):
        """And a decay of the weights moves no constant, nor its average."""
        optimizer = fptt_exact(DECAY, 0.4) if exact else optax.chain(fptt(0.4), DECAY)
        carry = self.run(optimizer, *self.stream())
        W, lam, W_bar = self.loop(*self.stream(), 0.4, exact)
        parameters = eqx.filter(carry.model, eqx.is_inexact_array)
        assert_close(flat(parameters), W)
        assert_close(flat(settle(parameters, carry.optimizer)), np.concatenate([lam, W_bar]))
        adopted = eqx.tree_at(lambda c: (c.arrays, c.optimizer), carry, adopt_average(carry.arrays, carry.optimizer))
        assert_close(flat(eqx.filter(adopted.model, eqx.is_inexact_array)), W_bar)
        assert_identical(adopted.model.cell.leak, self.stream()[0].cell.leak)

    @pytest.mark.parametrize("exact", [False, True], ids=["running", "exact"])
    @pytest.mark.parametrize("name", FORWARD)
    def test_it_takes_the_gradient_of_any_estimator(self, name, exact):
        """Of each chunk at W and, in the exact form, at W' as well, from the state and the noise that it began with."""
        p, estimator, chunks, steps, alpha = problem("vanilla", units=2, steps=6), FORWARD[name], 3, 2, 0.4
        optimizer = fptt_exact(DECAY, alpha) if exact else optax.chain(fptt(alpha), DECAY)
        learner = onward.Learner(estimator, optimizer, loss=step_loss, chunk=steps)
        begin = learner.init(p.model, key=jr.key(0), example=(p.xs[0], p.ys[0]))
        carry, _ = learner.run(begin, p.xs, p.ys)

        parameters, static = eqx.partition(p.model, eqx.is_inexact_array)
        W, unravel = ravel_pytree(parameters)

        @jax.jit
        def estimate(W, hidden, state, xs, ys, noise):
            e = estimator.grad(eqx.combine(unravel(W), static), step_loss, hidden, state, xs, ys, noise=noise)
            return flat(e.grads), e.hidden, e.state

        W_bar, lam, moments, hidden, state = W, 0 * W, DECAY.init(W), begin.hidden, begin.estimator
        noise = estimator.draw(state, chunks * steps)
        for q in range(chunks):
            window = (p.xs, p.ys, noise)
            chunk = jax.tree.map(lambda leaf, q=q: leaf[q * steps : (q + 1) * steps], window)
            g, after, state_after = estimate(W, hidden, state, *chunk)
            increment, moments = DECAY.update(g - lam + alpha * (W - W_bar), moments, W)
            W = W + increment
            lam = estimate(W, hidden, state, *chunk)[0] if exact else lam - alpha * (W - W_bar)
            W_bar = 0.5 * W_bar + 0.5 * W - 0.5 / alpha * lam
            hidden, state = after, state_after
        assert_close(flat(carry.arrays), W)
        assert_close(flat(settle(carry.arrays, carry.optimizer)), np.concatenate([lam, W_bar]))

    def test_only_the_exact_form_has_a_second_gradient_traced(self):
        def traced(optimizer):
            traces = []
            self.run(optimizer, *self.stream(), traces=traces)
            return len(traces)

        plain = traced(ADAM)
        assert traced(optax.chain(fptt(0.4), ADAM)) == plain < traced(fptt_exact(ADAM, 0.4))


# Two windows, ½(W − 1)² and ½(W + 1)² in turn: their sum is stationary at 0.
def two_windows(optimizer, steps, at=5.0):
    """W after each of the last two steps."""
    targets = jnp.where(jnp.arange(steps) % 2 == 0, 1.0, -1.0)
    carry = jnp.array(at), optimizer.init(jnp.array(at))
    _, visited = jax.lax.scan(partial(one_update, optimizer, quadratic), carry, targets)
    return visited[-2:, 0]


def solver(alpha):
    """The step that solves a window of curvature 1, for a schedule of α."""
    return optax.scale_by_schedule(lambda count: -1 / (1 + alpha(count)))


CYCLES = {
    "unregularised": (
        lambda alpha, eta: optax.sgd(eta),
        lambda alpha, eta: eta / (2 - eta),
    ),
    "running": (
        lambda alpha, eta: optax.chain(fptt(alpha), optax.sgd(eta)),
        lambda alpha, eta: 5 * eta / (10 - 6 * alpha * eta - 5 * eta),
    ),
    "exact, one step": (
        lambda alpha, eta: fptt_exact(optax.sgd(eta), alpha),
        lambda alpha, eta: 5 * eta / (6 - eta * (2 * alpha + 1)),
    ),
    "exact, solved": (
        lambda alpha, eta: fptt_exact(solver(lambda count: alpha), alpha),
        lambda alpha, eta: 5 / (4 * alpha + 5),
    ),
}
ALPHAS, RATES = np.array([0.1, 0.5, 0.5, 1.0]), np.array([0.3, 0.3, 0.6, 0.2])


LIMITS = {"running": lambda alpha: 10 / (5 + 6 * alpha), "exact, one step": lambda alpha: 6 / (1 + 2 * alpha)}


class TestConvergence:
    """Proposition 1 of the paper is weaker than it reads."""

    @pytest.mark.parametrize("form", CYCLES)
    def test_at_a_fixed_alpha_every_form_cycles(self, form):
        optimizer, amplitude = CYCLES[form]
        ends = jax.jit(jax.vmap(lambda alpha, eta: two_windows(optimizer(alpha, eta), 4000)))(ALPHAS, RATES)
        assert_close(ends[:, 0], -ends[:, 1], 1e-10)
        assert_close(np.abs(ends[:, 1]), amplitude(ALPHAS, RATES), 1e-10)

    def test_the_running_form_cycles_more_widely_than_no_regulariser_the_exact_one_below_a_rate_only(self):
        def widths(eta):
            def width(form):
                return jnp.abs(two_windows(CYCLES[form][0](0.5, eta), 4000)[-1])

            return width("unregularised"), width("running"), width("exact, one step")

        # The rate in question is 2/(2 − α) = 1.33; the running form diverges from 1.25 on.
        (plain, above), (running, _), (exact, exact_above) = jax.jit(jax.vmap(widths))(jnp.array([1.1, 1.6]))
        assert running > plain
        assert exact > plain
        assert exact_above < above

    def test_with_a_growing_alpha_and_solved_windows_it_converges(self):
        def alpha(count):
            return 1 + (count + 1.0) ** 0.7

        for optimizer in (fptt_exact(solver(alpha), alpha), optax.chain(fptt(alpha), solver(alpha))):
            ends = two_windows(optimizer, 10_000)
            assert np.abs(ends).max() < 5e-3
        assert_close(np.abs(two_windows(optax.sgd(0.3), 10_000)), 0.3 / 1.7, 1e-10)  # 0.176

    def test_windows_that_share_a_minimum_stop_all_forms(self):
        def loss(W, curvature):
            return curvature * (W - 2.0) ** 2 / 2

        curvatures = jnp.where(jnp.arange(4000) % 2 == 0, 1.0, 0.3)
        for optimizer in (optax.sgd(0.3), optax.chain(fptt(0.5), optax.sgd(0.3)), fptt_exact(optax.sgd(0.3), 0.5)):
            carry = jnp.array(5.0), optimizer.init(jnp.array(5.0))
            (W, _), _ = jax.lax.scan(partial(one_update, optimizer, loss), carry, curvatures)
            assert_close(W, 2.0, 1e-10)

    @pytest.mark.parametrize(
        ("form", "alpha", "limit"),
        [
            *[("running", *pair) for pair in [(0.1, 1.79), (0.5, 1.25), (1.0, 0.91), (3.0, 0.43)]],
            *[("exact, one step", *pair) for pair in [(0.1, 5.0), (0.5, 3.0), (1.0, 2.0), (3.0, 0.86)]],
        ],
    )
    def test_the_largest_stable_rate(self, form, alpha, limit):
        """The spectral radius of one update of (W, λ, W̄) on `½W²` passes 1 there; without a regulariser, at 2."""

        def update(carry, eta):
            optimizer, (W, *settled) = CYCLES[form][0](alpha, eta), carry
            state = jax.tree.map(
                lambda node: node._replace(multiplier=settled[0], average=settled[1]),
                optimizer.init(W),
                is_leaf=lambda node: isinstance(node, FPTTState),
            )
            (W, state), _ = one_update(optimizer, quadratic, (W, state), 0.0)
            return jnp.stack([W, *settle(W, state)])

        @jax.jit
        @jax.vmap
        def matrix(eta):
            return jax.jacfwd(lambda carry: update(carry, eta))(jnp.zeros(3))

        exact_limit = LIMITS[form](alpha)
        assert round(exact_limit, 2) == limit
        stable, unstable = exact_limit * np.linspace(0.01, 0.9999, 100), exact_limit * np.linspace(1.0001, 1.5, 20)
        radius = np.abs(np.linalg.eigvals(matrix(np.concatenate([stable, unstable])))).max(1)
        assert (radius[:100] < 1).all()
        assert (radius[100:] > 1).all()


class TestBadInput:
    @pytest.mark.parametrize("alpha", [0.0, -0.5, np.nan, np.inf])
    def test_alpha(self, alpha):
        with pytest.raises(ValueError, match=rf"^alpha must be a finite number above 0, got {alpha}\.$"):
            fptt(alpha)
        with pytest.raises(ValueError, match=r"^alpha must be"):
            fptt_exact(optax.sgd(0.1), alpha)

    @pytest.mark.parametrize("beta", [0.0, -0.1, 1.5, np.nan])
    def test_beta(self, beta):
        with pytest.raises(ValueError, match=rf"^beta must be in \(0, 1\], got {beta}\.$"):
            fptt(0.5, beta=beta)

    @pytest.mark.parametrize("proximal", [-1.0, np.nan, np.inf])
    def test_proximal(self, proximal):
        with pytest.raises(ValueError, match=rf"^proximal must be a finite number of at least 0, got {proximal}\.$"):
            fptt(0.5, proximal=proximal)

    def test_a_schedule_that_starts_at_zero(self):
        with pytest.raises(ValueError, match=r"^a schedule's alpha at the first update must be .*, got .*0\..*\.$"):
            fptt(optax.linear_schedule(0.0, 1.0, 10))

    def test_a_schedule_that_goes_below_zero_is_not_overlooked(self):
        _, _, visited = train(optax.chain(fptt(lambda count: 2.5 - count), optax.sgd(0.01)))
        assert np.isfinite(visited[:3]).all()
        assert np.isnan(visited[3:]).all()

    def test_what_is_missing(self):
        W = jnp.ones(2)
        with pytest.raises(ValueError, match=r"got no params\.$"):
            fptt(0.5).update(W, fptt(0.5).init(W))
        exact = fptt_exact(optax.sgd(0.1), 0.5)
        with pytest.raises(ValueError, match=r"got no grad_fn\.$"):
            exact.update(W, exact.init(W), W)
        with pytest.raises(ValueError, match=r"exactly one fptt or fptt_exact, it holds 0\.$"):
            settle(W, optax.sgd(0.1).init(W))
