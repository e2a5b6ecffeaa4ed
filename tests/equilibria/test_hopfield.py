"""The Hopfield memory against its equation, its gradients, its trainings, and the digits it is to remember."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import QUICK, assert_same

import onward
from experiments.data.digits import corrupt
from experiments.rbp.hopfield import judge_hopfield, judge_table_a1
from experiments.rbp.hopfield_training import Setting, adjoints, train

KEY = jr.key(3, impl=QUICK)
PIXELS, HIDDEN = 3, 2
NEURONS = 2 * PIXELS + HIDDEN
PATTERN = np.array([1.0, 0.0, 1.0])
LIKE_PAPER = {"scale": 1.0}
SLOW = {"scale": 0.5, "leak": 2.0, "gain": 0.7, "step_size": 0.3, "activation": jax.nn.softplus}


def make(clamped, settings):
    return onward.equilibria.HopfieldMemory(PIXELS, HIDDEN, key=KEY, clamped=clamped, **settings)


def by_the_equation(weights, clamped, steps, pattern, *, leak=1.0, gain=0.5, step_size=1.0, activation=jax.nn.sigmoid):
    """Equation (18) with all neurons and the whole symmetric matrix, neuron after neuron."""
    A = jnp.zeros((NEURONS, NEURONS)).at[-len(weights) :].set(weights)
    kept = jnp.arange(NEURONS) < (PIXELS if clamped else 0)
    between_free = ~kept[:, None] & ~kept[None, :] & ~jnp.eye(NEURONS, dtype=bool)
    W = jnp.where(between_free, (A + A.T) / 2, 0) + jnp.where(~kept[:, None] & kept[None, :], A, 0)
    W = W + jnp.where(kept[:, None], W.T, 0)
    I = jnp.zeros(NEURONS).at[:PIXELS].set(pattern)
    h = jnp.where(kept, I, 0)
    for _ in range(steps):
        h = jnp.where(kept, I, h + step_size * (-h / leak + W @ activation(gain * h) + I))
    return activation(gain * h[-PIXELS:]), W


@pytest.mark.parametrize("clamped", [True, False], ids=["clamped", "driven"])
@pytest.mark.parametrize("settings", [LIKE_PAPER, SLOW], ids=["as-in-the-paper", "slow"])
def test_it_follows_the_equation(clamped, settings):
    memory = make(clamped, settings)
    assert memory.weights.shape == (NEURONS - (PIXELS if clamped else 0), NEURONS)
    given = {name: value for name, value in settings.items() if name != "scale"}

    def plain(memory):
        output, W = by_the_equation(memory.weights, clamped, 7, PATTERN, **given)
        return jnp.sum(output**2), (output, W)

    def ours(memory):
        found = memory.recall(jnp.asarray(PATTERN), steps=7, adjoint=onward.equilibria.FullBPTT())
        return jnp.sum(found.output**2), found

    (_, (output, W)), slope = jax.jit(jax.value_and_grad(plain, has_aux=True))(memory)
    (_, found), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(memory)
    np.testing.assert_array_equal(W, W.T)
    assert_same(found.output, output)
    assert_same(gradient.weights, slope.weights)
    assert found.residual > 1e-5


@pytest.mark.parametrize("clamped", [True, False], ids=["clamped", "driven"])
def test_the_energy_falls_as_its_slope_says(clamped):
    pattern = jnp.asarray(PATTERN)
    memory = make(clamped, SLOW | {"activation": jax.nn.sigmoid})
    h = jr.normal(jr.key(2), (len(memory.weights),))

    energy_and_slope = jax.jit(jax.value_and_grad(lambda h: memory.energy(pattern, h)))
    slope = energy_and_slope(h)[1]
    W, drive = memory._drives(pattern)
    b, motion = memory.gain, W @ jax.nn.sigmoid(memory.gain * h) + drive - h / memory.leak
    x = jax.nn.sigmoid(b * h)
    assert_same(slope, -b * x * (1 - x) * motion)

    states = jax.jit(lambda: [memory.recall(pattern, steps=steps).state for steps in (1, 2, 4, 8, 16, 200)])()
    energies, slopes = zip(*(energy_and_slope(h) for h in (jnp.zeros_like(h), *states)), strict=True)
    assert list(energies) == sorted(energies, reverse=True)
    assert np.abs(slopes[-1]).max() < 1e-6


@pytest.mark.parametrize("name", ["TBPTT", "RBP", "CG-RBP", "Neumann-RBP"])
def test_at_rest_all_methods_of_the_recipe_agree(name):
    def slope(adjoint):
        def loss(memory):
            found = memory.recall(jnp.asarray(PATTERN), steps=90, adjoint=adjoint)
            return jnp.sum(found.output**2), found.residual

        return jax.jit(jax.grad(loss, has_aux=True))(make(True, LIKE_PAPER))

    gradient, residual = slope(adjoints(80)[name](KEY))
    assert residual < 1e-14
    relative = 1e-4 if name == "CG-RBP" else 1e-10  # CG is damped by 1e-5
    assert_same(gradient.weights, slope(onward.equilibria.FullBPTT())[0].weights, relative=relative)


@pytest.fixture
def mixed_dtypes():
    """Optax multiplies its counts with its rates."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.usefixtures("mixed_dtypes")
def test_trainings_side_by_side_are_what_they_are_alone():
    digits = jnp.asarray(np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]]))
    setting = Setting(adjoints(5)["RBP"], passes=12, scale=0.1, hidden_size=3, rate=0.1)
    keys = jr.split(jr.key(0), 2)
    both = train(digits, keys, setting, checked=True)
    alone = train(digits, keys[1:], setting, checked=False)
    np.testing.assert_allclose(both.losses[1], alone.losses[0], rtol=1e-12)
    np.testing.assert_allclose(both.end[1], alone.end[0], rtol=1e-12)
    assert both.losses.shape == (2, 24)
    assert both.errors.shape == (2, 12)
    assert jnp.all(both.end < 0.8 * both.losses[:, 0])
    shown = both.last.shown
    assert jnp.all(shown.sum(-1) == jnp.array([1.0, 2.0]))  # of 2 and 3 pixels, half rounded down is gone
    assert jnp.all(shown <= digits)
    assert both.last.recalled.shape == (2, 2, 4)
    np.testing.assert_allclose(both.last.errors, jnp.mean((both.last.recalled >= 0.5) != (digits == 1), (1, 2)))


def test_corruption_removes_its_part_of_the_ink():
    image = jnp.asarray(np.random.default_rng(0).random(30) < 0.4).astype(float)
    ink = int(image.sum())
    for part, left in ((0.0, ink), (0.5, ink - ink // 2), (1.0, 0)):
        many = jax.vmap(lambda key, part=part: corrupt(image, part, key=key))(jr.split(KEY, 20))
        assert jnp.all(many.sum(1) == left)
        assert jnp.all(many <= image)
    halves = jax.vmap(lambda key: corrupt(image, key=key))(jr.split(KEY, 20))
    assert len({row.tobytes() for row in np.asarray(halves)}) > 15
    with pytest.raises(ValueError, match=r"part must lie between 0 and 1, got 1.5"):
        corrupt(image, 1.5, key=KEY)


@pytest.mark.usefixtures("mixed_dtypes")
def test_as_in_the_script_an_update_is_one_of_all_digits_on_their_states():
    digits = jnp.asarray(np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]]))
    setting = Setting(adjoints(5)["Neumann-RBP"], 3, scale=0.1, hidden_size=3, as_script=True)
    found = train(digits, jr.split(jr.key(0), 1), setting, checked=True)
    assert (found.losses.shape, found.errors.shape) == ((1, 3), (1, 3))
    memory = onward.equilibria.HopfieldMemory(4, 3, key=jr.split(jr.split(jr.key(0), 1)[0], 3)[0], scale=0.1)

    def loss(memory):
        return jnp.mean(jnp.abs(jax.vmap(lambda digit: memory.recall(digit).state[-4:])(digits) - digits))

    slopes, optimizer, memory_losses = jax.jit(jax.value_and_grad(loss)), optax.adam(1e-3), []
    state = optimizer.init(memory)
    for _ in range(3):
        value, slope = slopes(memory)
        memory_losses.append(float(value))
        updates, state = optimizer.update(slope, state)
        memory = optax.apply_updates(memory, updates)
    # Neumann's series has 5 terms there and 20 here, of a map that contracts by far.
    np.testing.assert_allclose(found.losses[0], memory_losses, rtol=1e-6)


def losses(**ends):
    """A falling curve of two seeds for each method, ending at this many times BPTT's."""
    bptt = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    found = {name: bptt * np.array([1, 1, 1.0]) for name in ("BPTT", "TBPTT", "RBP", "CG-RBP", "Neumann-RBP")}
    found |= {f"{name}, large weights": bptt.copy() for name in ("RBP", "Neumann-RBP")}
    for name, times in ends.items():
        found[name.replace("_", "-")][:, -1] *= times
    return found


def test_verdicts():
    few, many = np.array([5.0, 6.0]), np.array([5.0, 13.0])
    assert judge_hopfield(losses(RBP=3.0), few, 10.0).word == "agrees"
    assert judge_hopfield(losses(RBP=3.0), many, 10.0).word == "agrees in part"
    behind = judge_hopfield(losses(RBP=2.0), few, 10.0)
    assert behind.word == "agrees in part"
    assert "RBP ends with 2.00 times BPTT's loss, below where it began" in behind.why
    assert "it says agrees in 100 % of 200 draws; with losses of 10 % more" in behind.why
    assert judge_hopfield(losses(CG_RBP=2.0), few, 10.0).word == "disagrees"
    always = {name: [100.0] * 3 for name in ("TBPTT", "CG-RBP", "Neumann-RBP")}
    agrees = judge_table_a1(always | {"RBP": [1.0, 4.0, 99.0]}, 0.0, 100)
    assert agrees.word == "agrees"
    assert "agrees in 100 %" in agrees.why
    assert "if RBP always succeeded, agrees in part in 100 %" in agrees.why
    assert judge_table_a1(always | {"RBP": [1.0, 4.0, 99.0]}, 100.0, 100).word == "agrees in part"
    assert judge_table_a1(always | {"RBP": [100.0] * 3}, 100.0, 100).word == "agrees in part"
    assert judge_table_a1(always | {"RBP": [0.0] * 3, "CG-RBP": [90.0] * 3}, 0.0, 100).word == "disagrees"


def attempt(pixels=3, hidden=2, **settings):
    return onward.equilibria.HopfieldMemory(pixels, hidden, key=KEY, **settings)


BAD = {
    "pixels": ("pixels must be an integer of at least 1, got 0", lambda: attempt(pixels=0)),
    "hidden": ("hidden_size must be an integer of at least 0, got -1", lambda: attempt(hidden=-1)),
    "scale": ("scale must be a finite number of at least 0, got -1", lambda: attempt(scale=-1)),
    "leak": ("leak must be a finite number above 0, got 0", lambda: attempt(leak=0)),
    "gain": ("gain must be a finite number .*, got nan", lambda: attempt(gain=float("nan"))),
    "step": ("step_size must be a finite number above 0, got 0.0", lambda: attempt(step_size=0.0)),
    "pattern": (r"pattern must have shape \(3,\), got \(4,\)", lambda: attempt().recall(jnp.zeros(4))),
    "nan": ("pattern must be finite, got nan for 1 of 3", lambda: attempt().recall(jnp.array([0.0, jnp.nan, 1.0]))),
    **{
        f"energy-{shape}": (
            r"pattern must have shape \(3,\), got",
            lambda shape=shape: attempt(clamped=False).energy(jnp.zeros(shape), jnp.zeros(8)),
        )
        for shape in ((), (1,), (4,), (3, 5))
    },
    "activation": (
        "antiderivative must be given for softplus: a function whose slope is that activation",
        lambda: attempt(activation=jax.nn.softplus).energy(jnp.zeros(3), jnp.zeros(5)),
    ),
    "state": (r"state must have the shape \(5,\) of the free", lambda: attempt().energy(jnp.zeros(3), jnp.zeros(4))),
    "steps": ("steps must be an integer of at least 1, got 0", lambda: attempt().recall(jnp.zeros(3), steps=0)),
}


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_in_one_sentence(case):
    match, attempt = BAD[case]
    with pytest.raises(ValueError, match=match):
        attempt()
