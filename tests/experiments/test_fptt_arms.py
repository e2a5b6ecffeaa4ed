"""The methods that FPTT is compared with: what sets them apart, and what an iteration of each costs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import assert_same

import onward
from experiments.fptt.arms import Problem, compare, exact, running, train
from experiments.fptt.costs import draw as draw_costs
from experiments.fptt.costs import judge as judge_costs
from experiments.fptt.costs import measure
from experiments.parts import Parts
from onward.losses import softmax_cross_entropy, squared_error, terminal_squared_error
from onward.support.errors import UserError
from onward.tasks.adding import Adding
from onward.tasks.copying import Copying

pytestmark = pytest.mark.usefixtures("promotion")

STEPS, BATCH = 6, 2
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01))


@eqx.filter_jit
def model(key):
    cell_key, readout_key = jr.split(key)
    return onward.Model(onward.VanillaCell(2, 3, key=cell_key), eqx.nn.Linear(3, 1, key=readout_key))


def problem(make_model=model):
    data = onward.sequences.Drawn(Adding(STEPS), batch=BATCH, minibatches=2)
    return Problem(
        data, data, squared_error, terminal_squared_error, onward.Terminal, 3, lambda updates: OPTIMIZER, make_model
    )


def never(history):
    return False


class TestArms:
    @pytest.mark.parametrize("name", [running(0.1), running(0.1, 2.0), exact(0.1)])
    def test_alpha_and_the_proximal_factor_of_the_running_form_are_set_where_the_training_starts(self, name):
        data = problem().data
        arm = problem().arms((0.5, 0.1), ((0.5, 3.0), (0.1, 2.0)))[name]
        carry = arm.start(model(jr.key(0)), jr.key(1))
        found = onward.fit(arm.learner, carry, data, arm.objective, epochs=1, key=jr.key(2))
        regularised = optax.chain(onward.fptt(0.1, proximal=1.0 if name == running(0.1) else 2.0), OPTIMIZER)
        optimizer = onward.fptt_exact(OPTIMIZER, 0.1) if name == exact(0.1) else regularised
        plain = onward.Learner(onward.BPTT(), optimizer, loss=terminal_squared_error, chunk=2, batch=BATCH)
        carry = plain.init(model(jr.key(0)), key=jr.key(1))
        expected = onward.fit(plain, carry, data, onward.Terminal(2), epochs=1, key=jr.key(2))
        assert_same(found.carry.model, expected.carry.model)
        np.testing.assert_allclose(found.history[0].loss, expected.history[0].loss, rtol=1e-10)

    def test_methods_differ_in_their_windows_and_updates_alone(self):
        methods = problem().arms((0.5,))
        assert list(methods) == ["BPTT", "BPTT, all losses", "TBPTT", "FPTT, α = 0.5", "FPTT exact, α = 0.5"]
        assert [arm.learner.chunk for arm in methods.values()] == [6, 6, 2, 2, 2]
        assert [arm.objective.window for arm in methods.values()] == [6, 2, 2, 2, 2]
        assert [running(0.5), exact(0.5)] == list(methods)[3:]

    def test_with_a_target_at_every_step_the_losses_of_all_windows_are_those_of_the_sequence(self):
        data = onward.sequences.Drawn(Copying(10), batch=BATCH, minibatches=2)
        loss, updates = softmax_cross_entropy, 3
        copying = Problem(data, data, loss, loss, onward.EveryStep, updates, lambda updates: OPTIMIZER, model)
        assert list(copying.arms(())) == ["BPTT", "TBPTT"]
        minibatch = data.minibatch(data.order(jr.key(0))[0])
        weights = [
            onward.EveryStep(window).assign(None, minibatch.ys, minibatch.lengths, data.steps)[1]
            for window in (data.steps, data.steps // updates)
        ]
        assert_same(updates * weights[0], weights[1])

    def test_trainings_end_when_told_keep_their_last_score_and_are_not_made_twice(self, parts):
        def found(until):
            return compare(
                problem(), problem().arms(()), epochs=4, keys=jr.split(jr.key(0), 2), until=until, parts=parts
            )

        first = found(lambda history: len(history) == 2)
        assert list(first) == ["BPTT", "BPTT, all losses", "TBPTT"]
        scores, epochs, final = first["TBPTT"].scores
        assert epochs.tolist() == [2, 2]
        np.testing.assert_array_equal(scores[:, 2:], scores[:, [1, 1]])
        assert len(np.unique(scores[:, :2])) == 4
        assert np.isnan(final).all()
        np.testing.assert_array_equal(found(never)["TBPTT"].scores.scores, scores)

    def test_stopped_in_a_training_it_goes_on_from_there_to_the_same_scores(self, parts, tmp_path):
        ours, name, ended = running(0.1), f"{running(0.1)}, seed 0", []
        task = problem()._replace(final=problem().test)
        arms, keys = {ours: task.arms((0.5, 0.1))[ours]}, jr.split(jr.key(0), 1)

        def compared(parts, at_epoch_end=None):
            watched = task._replace(at_epoch_end=at_epoch_end)
            return compare(watched, arms, epochs=4, keys=keys, until=never, parts=parts)[ours]

        other = Parts(tmp_path / "other", {"figure": "a test"})
        other.begin()
        whole = compared(other)

        def stop_in_the_third(carry, history):
            if len(history) == 3:
                raise KeyboardInterrupt
            return carry

        def note(carry, history):
            ended.append(len(history))
            return carry

        with pytest.raises(KeyboardInterrupt):
            compared(parts, stop_in_the_third)
        assert parts.unfinished(name).is_file()
        found = compared(parts, note)
        for ours, theirs in zip(found.scores, whole.scores, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert np.isfinite(found.scores.final).all()
        assert found.seconds is None
        assert whole.seconds > 0
        assert ended == [3, 4]
        assert not parts.unfinished(name).exists()

    def test_a_checkpoint_of_another_training_is_refused(self, parts):
        arms = {"TBPTT": problem().arms(())["TBPTT"]}

        def compared(seed):
            return compare(problem(), arms, epochs=1, keys=jr.split(jr.key(seed), 1), until=never, parts=parts)

        compared(0)
        path = parts.unfinished("TBPTT, seed 0")
        arm = arms["TBPTT"]
        train(arm, problem(), 1, jr.split(jr.key(1), 1)[0], never, lambda done, words: None, path)
        path.with_suffix(".json").unlink()
        with pytest.raises(UserError, match=r"belongs to a run with other settings; .* or delete it\."):
            compared(0)

    def test_a_training_that_diverges_has_no_score_from_there_on(self, parts):
        def broken(key):
            return eqx.tree_at(lambda m: m.readout.bias, model(key), jnp.full(1, jnp.nan))

        keys = jr.split(jr.key(0), 1)
        arms = {"TBPTT": problem(broken).arms(())["TBPTT"]}
        found = compare(problem(broken), arms, epochs=2, keys=keys, until=never, parts=parts)
        assert np.isnan(found["TBPTT"].scores.scores).all()
        assert found["TBPTT"].scores.reached(1.0).tolist() == [0]


def test_what_an_iteration_costs_is_measured():
    """Windows take less for their steps; the regulariser remembers two numbers more of each parameter."""
    data = onward.sequences.Drawn(Adding(200), batch=BATCH, minibatches=2)
    long = problem()._replace(data=data, test=data, updates=20)
    arms = {name: arm for name, arm in long.arms((0.1,)).items() if name in ("BPTT", "TBPTT", running(0.1))}
    costs = measure(arms, long, 2, jr.key(0))
    for cost in costs.values():
        assert 0 < cost["least"] <= cost["seconds"] <= cost["most"]
    besides = {name: cost["bytes"] - cost["kept_bytes"] for name, cost in costs.items()}
    assert 0 < besides["TBPTT"] < besides["BPTT"] / 2
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(eqx.filter(model(jr.key(0)), eqx.is_inexact_array)))
    more = costs[running(0.1)]["kept_bytes"] - costs["TBPTT"]["kept_bytes"]
    assert 2 * parameters < more < 2 * parameters + 100


@pytest.mark.parametrize(
    ("seconds", "size", "word"), [(1.1, 0.2, "agrees"), (1.5, 0.2, "agrees in part"), (1.5, 0.8, "disagrees")]
)
def test_the_verdict_on_costs(seconds, size, word):
    plain, ours = {"seconds": 2.0, "bytes": 100.0}, {"seconds": 2 * seconds, "bytes": 100 * size}
    found = {"adding, T = 200": {"BPTT": plain, "FPTT": ours}}
    assert judge_costs(found).word == word
    assert draw_costs(found).startswith(b"\x89PNG")
