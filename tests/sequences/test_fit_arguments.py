"""Arguments of `fit` and `evaluate` that cannot be, each with its sentence."""

import warnings

import jax.numpy as jnp
import optax
import pytest
from training import BATCH, KEY, OBJECTIVE, arrays, data, fit, learner, model, start

import onward
from onward.losses import misclassified, squared_error, terminal_cross_entropy
from onward.sequences._fit_checks import warn_of_cut_windows

pytestmark = pytest.mark.usefixtures("promotion")


@pytest.mark.usefixtures("as_in_use")
def test_numbers_that_cannot_be():
    with pytest.raises(ValueError, match="epochs must be an integer of at least 1, got 0"):
        fit(epochs=0)
    with pytest.raises(ValueError, match="block must be an integer of at least 1, got 0"):
        fit(block=0)


@pytest.mark.usefixtures("as_in_use")
def test_a_class_for_an_object_and_arguments_of_another_kind():
    given = {"learner": learner(), "carry": start(), "data": data(), "objective": OBJECTIVE}
    cases = [
        ("learner", onward.Learner, "learner must be an onward.Learner, got the class Learner it"),
        ("carry", model(), "carry must be a carry from learner.init, got one of Model."),
        ("data", onward.Sequences, r"data must be an object such as onward.Sequences\(.*, got the class Sequences"),
        (
            "data",
            arrays(),
            r"data must be an object such as onward.Sequences\(xs, .*, got one of tuple",
        ),
        (
            "objective",
            onward.EveryStep,
            r"objective must be .* onward.EveryStep\(window\), got the class EveryStep",
        ),
        ("objective", 3, "objective must be .*, got one of int."),
        ("callbacks", [print], "each of callbacks must be an onward.sequences.Callback, got one of builtin"),
        ("key", 0, r"key must be a random key such as jax.random.key\(0\), got 0"),
        ("validate", 3, "validate must be a function, got 3"),
        ("scored", "average", "scored must be a function, got 'average'"),
        ("finish_epoch", [], r"finish_epoch must be a function, got \[\]"),
        ("observe", [print], "observe must be a function of .* that can be hashed, got list"),
        ("checkpoint", 3, "checkpoint must be the path of a file, got 3"),
        ("checkpoint_every", "1m", "checkpoint_every must be a number of seconds of at least 0, got '1m'"),
    ]
    for name, wrong, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            onward.fit(**{**given, "epochs": 1, "key": KEY, name: wrong})
    asked = {"model": model(), "data": data(), "objective": OBJECTIVE, "measure": misclassified}
    for name, wrong, sentence in [
        ("model", start(), "model must be an onward.Model, got one of Carry."),
        ("measure", "loss", "measure must be a function of a prediction and a target, got 'loss'."),
        *(case for case in cases if case[0] in ("data", "objective", "key")),
    ]:
        with pytest.raises(ValueError, match=sentence):
            onward.evaluate(**{**asked, "key": KEY, name: wrong})


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ({"validate": lambda model: None}, "validate must return a number or a dictionary of numbers, got None"),
        (
            {"validate": lambda model: {"a": jnp.ones(2)}},
            "validate must return a number or a dictionary of",
        ),
        ({"scored": lambda carry: carry}, "scored must return a model like the learner's, got Carry"),
        ({"finish_epoch": lambda carry: None}, "finish_epoch must return a carry like the one .*, got NoneType"),
        ({"at_epoch_end": lambda carry, _: carry.model}, "at_epoch_end must return a carry like .*, got Model"),
        ({"observe": lambda update: "norms"}, "observe must return a tree of arrays, got str"),
    ],
)
def test_what_a_function_must_not_return(argument, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(epochs=1, **argument)


@pytest.mark.usefixtures("as_in_use")
def test_a_chunk_that_cuts_the_windows_is_warned_of():
    def warned(estimator, chunk, objective, steps=12):
        ours = onward.Learner(estimator, optax.sgd(0.1), loss=squared_error, chunk=chunk, batch=BATCH)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_of_cut_windows(ours, objective, steps)
        return "".join(str(each.message) for each in caught)

    bptt, rtrl, every = onward.BPTT(), onward.RTRL(), onward.EveryStep(4)
    assert warned(bptt, 3, every) == (
        "the learner's chunk of 3 steps cuts the objective's windows of 4: an update learns a part of a window's "
        "loss, and the gradient ends at the chunk's first step; a chunk of 4, or a multiple of it, does not."
    )
    for objective in (onward.Terminal(4), onward.TerminalClasses(4, 2)):
        assert all(warned(bptt, chunk, objective) for chunk in (1, 2, 6))
    assert warned(rtrl, 3, every)
    assert "gradient" not in warned(rtrl, 6, every)
    assert not any(warned(bptt, chunk, every) for chunk in (4, 8, 12, 13))
    assert not any(warned(rtrl, chunk, onward.Terminal(4)) for chunk in (1, 2, 4, 8))
    # `fit` says so before it trains.
    ours = onward.Learner(bptt, optax.sgd(0.1), loss=terminal_cross_entropy, chunk=3, batch=BATCH)
    with pytest.warns(UserWarning, match="chunk of 3 steps cuts the objective's windows of 2"):
        onward.fit(ours, ours.init(model(), key=KEY), data(), OBJECTIVE, epochs=1, key=KEY, progress=False)


@pytest.mark.usefixtures("as_in_use")
def test_another_batch():
    xs, ys = arrays()
    with pytest.raises(ValueError, match="the learner's batch must be the data's 3, got 2"):
        onward.fit(learner(), start(), onward.Sequences(xs, ys, batch=3), OBJECTIVE, epochs=1, key=KEY)
