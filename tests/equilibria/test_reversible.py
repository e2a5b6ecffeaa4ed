"""Steps that are taken back: the states, the gradient against unrolling, memory, and what is lost."""

import math
import warnings

import jax
import jax.numpy as jnp
import jax.random as jr
import optimistix as optx
import pytest
from problems import assert_same

import onward
from onward.equilibria import EquilibriumWarning, FixedSteps, FullBPTT, Reversible, ReversibleAdjoint, states_on_the_way

UNITS = 6
LONG = 10_000


def move(h, args):
    W, x = args
    return {"a": jnp.tanh(W @ h["a"] + x + 0.1 * h["b"]), "b": 0.5 * jnp.sin(h["a"])}


def problem():
    keys = jr.split(jr.key(0), 3)
    W = jr.normal(keys[0], (UNITS, UNITS))
    args = 0.7 * W / jnp.linalg.norm(W, 2), jr.normal(keys[1], (UNITS,))
    return {"a": jr.normal(keys[2], (UNITS,)), "b": jnp.zeros(UNITS)}, args


def loss(start, args, solver, adjoint):
    found = optx.fixed_point(move, solver, start, args, max_steps=solver.steps, adjoint=adjoint, throw=False)
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(found.value))


def slopes(solver, adjoint):
    return jax.jit(jax.grad(lambda *point: loss(*point, solver, adjoint), (0, 1)))(*problem())


def test_its_steps_are_the_coupled_iteration():
    start, args = problem()
    y = z = start
    for _ in range(4):
        y = jax.tree.map(lambda h, F: 0.7 * h + 0.3 * F, y, move(z, args))
        z = jax.tree.map(lambda h, F: 0.7 * h + 0.3 * F, z, move(y, args))
    found = optx.fixed_point(move, Reversible(4, 0.3), start, args, max_steps=4, throw=False)
    assert_same(found.value, z)


@pytest.mark.parametrize(("steps", "mixing"), [(10, 0.5), (LONG, 3e-4)])
def test_taken_back_the_gradient_is_that_of_unrolling(steps, mixing):
    solver = Reversible(steps, mixing)
    assert_same(slopes(solver, ReversibleAdjoint(throw=True)), slopes(solver, FullBPTT()))


def memory(solver, adjoint) -> int:
    program = jax.jit(jax.grad(lambda *point: loss(*point, solver, adjoint), (0, 1))).lower(*problem()).compile()
    return program.memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_steps():
    silent = ReversibleAdjoint(warn_above=math.inf)
    assert memory(Reversible(10, 0.5), silent) == memory(Reversible(LONG, 3e-4), silent)
    assert memory(Reversible(LONG, 3e-4), FullBPTT()) > 100 * memory(Reversible(LONG, 3e-4), silent)


def test_states_kept_here_and_there_are_exact_for_any_number_of_steps_in_the_same_memory():
    """What `ReversibleAdjoint` recommends beyond the lengths for which it holds."""
    kept = optx.RecursiveCheckpointAdjoint(checkpoints=20)
    assert_same(slopes(FixedSteps(LONG), kept), slopes(FixedSteps(LONG), FullBPTT()))
    assert memory(FixedSteps(1000), kept) == memory(FixedSteps(LONG), kept)


def test_what_is_lost_is_said_once_for_a_batch_or_raised():
    start, args = problem()
    solver = Reversible(100)

    def of_many(adjoint):
        return jax.jit(jax.grad(lambda x: jax.vmap(lambda x: loss(start, (args[0], x), solver, adjoint))(x).sum()))

    xs = jnp.stack([args[1], -args[1]])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        jax.block_until_ready(of_many(ReversibleAdjoint())(xs))
        jax.effects_barrier()
    (one,) = said
    assert issubclass(one.category, EquilibriumWarning)
    assert "missed the start by more than warn_above = 0.001" in str(one.message)
    assert (one.message.failed, one.message.solves) == (2, 2)
    with pytest.raises(Exception, match="ReversibleAdjoint lost the states on the way back"):
        jax.block_until_ready(of_many(ReversibleAdjoint(throw=True))(xs))


def test_by_the_main_entry_it_settles_and_has_the_gradient_of_rest():
    start, args = problem()

    def settled(args, **how):
        found = onward.equilibrium(move, start, args, **how)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(found.state)), found.diagnostics.settled

    # Rest is near, so that few steps lead there, and the way back is short.
    start = jax.jit(lambda: onward.equilibrium(move, start, args, tolerance=1e-14).state)()
    way_back = {"solver": Reversible(24), "adjoint": ReversibleAdjoint(warn_above=math.inf)}
    (back, good), (at_rest, _) = jax.jit(
        lambda args: [
            jax.grad(settled, has_aux=True)(args, **how) for how in (way_back, {"adjoint": onward.NeumannRBP(100)})
        ]
    )(args)
    assert good
    assert_same(back, at_rest, relative=1e-4)


def test_states_on_the_way_have_a_gradient_of_their_own():
    start, args = problem()
    at, adjoint = (1, 3, 4), onward.NeumannRBP(0, warn_above=math.inf)
    weights = (0.25, 0.5, 1.0)

    def ours(args):
        states = states_on_the_way(move, start, args, at=at, adjoint=adjoint)
        return sum(c * jnp.sum(jnp.sin(h["a"])) for c, h in zip(weights, states, strict=True)), states

    (_, states), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(args)
    trajectory = [start]
    for _ in range(4):
        trajectory.append(move(trajectory[-1], args))
    assert_same(states, [trajectory[i] for i in at])

    def plain(args):  # with no further step, a state's gradient is that of the map applied to it, with b at the state
        total = 0.0
        for c, h in zip(weights, states, strict=True):
            b = jax.grad(lambda h: jnp.sum(jnp.sin(h["a"])))(h)
            after = move(h, args)
            total += c * sum(jnp.vdot(p, q) for p, q in zip(jax.tree.leaves(b), jax.tree.leaves(after), strict=True))
        return total

    assert_same(gradient, jax.jit(jax.grad(plain))(args))


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Reversible(0), "steps must be an integer of at least 1, got 0"),
        (lambda: Reversible(3, 1.0), "mixing must be a number above 0 and below 1, got 1.0"),
        (lambda: ReversibleAdjoint(warn_above=0.0), "warn_above must be a number above 0, or math.inf, got 0.0"),
        (
            lambda: slopes(FixedSteps(3), ReversibleAdjoint()),
            "only the steps of onward.equilibria.Reversible, got the solver FixedSteps",
        ),
        (
            lambda: jax.hessian(lambda s: loss(s, problem()[1], Reversible(3), ReversibleAdjoint()))(problem()[0]),
            "ReversibleAdjoint has a first derivative only",
        ),
        (
            lambda: onward.equilibrium(move, *problem(), solver=Reversible(30), max_steps=20),
            "max_steps must be at least the 30 that the solver takes, got 20",
        ),
        (
            lambda: states_on_the_way(move, *problem(), at=(3, 2), adjoint=onward.NeumannRBP(2)),
            r"at must be numbers of steps that increase, got \(3, 2\)",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(make, said):
    with pytest.raises(ValueError, match=said) as error:
        make()
    assert "\n" not in str(error.value)
