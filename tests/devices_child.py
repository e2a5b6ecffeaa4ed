"""A process with two devices that trains as `test_fit` does, and saves what came out: `devices_child FOLDER`."""

import os
import re
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from conftest import COMPILE_QUICKLY
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import onward
from onward import _learner_programs as programs
from onward import sequences
from onward._carry import spread
from onward.losses import softmax_cross_entropy
from onward.support.compiled import programs_of
from onward.support.devices import shared_evenly
from onward.support.small_loops import request


def main(folder: Path) -> None:
    os.environ["XLA_FLAGS"] = COMPILE_QUICKLY
    request()
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_enable_x64", True)
    from training import KEY, OBJECTIVE, data, fit, weights_score  # it computes

    minibatches = import_module(f"{sequences.__name__}.minibatches")
    learn_one, devices, traced = minibatches.learn_minibatch, [], []

    def looked_at(learner, objective, carry, memory, minibatch, *rest):
        jax.debug.inspect_array_sharding(minibatch.xs, callback=lambda found: devices.append(len(found.device_set)))
        traced.append(minibatch)
        return learn_one(learner, objective, carry, memory, minibatch, *rest)

    minibatches.learn_minibatch = looked_at
    whole = fit(block=1, validate=weights_score)

    def kill(progress):
        if (progress.epoch, progress.minibatch) == (1, 2):
            raise KeyboardInterrupt

    again = {"validate": weights_score, "checkpoint": folder / "checkpoint.npz", "checkpoint_every": 0.0}
    try:
        fit(block=1, report=kill, **again)
    except KeyboardInterrupt:
        pass
    resumed = fit(block=1, **again)
    score = onward.evaluate(whole.best, data(), OBJECTIVE, softmax_cross_entropy, key=KEY)
    places = {leaf.sharding for leaf in jax.tree.leaves((whole.carry, whole.best, resumed.carry))}
    with jax.default_device(jax.devices()[1]):
        chosen = [device.id for device in shared_evenly(2, "sequences").device_set]
    seen = {"devices": list(devices), "programs": len(traced)}
    explicit = on_explicit_axes(lambda: (fit(block=1, epochs=1), data(), OBJECTIVE, KEY))
    np.savez(
        folder / "found.npz",
        *jax.tree.leaves(whole.carry.arrays),
        resumed=np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(resumed.carry.arrays)]),
        history=[epoch[:2] for epoch in whole.history],
        resumed_history=[epoch[:2] for epoch in resumed.history],
        score=score,
        chosen=chosen,
        sizes=[shared_evenly(count, "sequences").mesh.size for count in (1, 2, 3, 4)],
        places=[len(place.device_set) for place in places],
        reductions=sorted(reductions().items()),
        **seen,
        **explicit,
    )


def reductions() -> dict[str, int]:
    """The operations between devices in the program of `Learner.run`, which has loops over chunks and over time."""
    shared = shared_evenly(2, "streams")
    model = onward.Model(onward.GRUCell(3, 4, key=jr.key(0)), eqx.nn.Linear(4, 2, key=jr.key(1)))
    learner = onward.Learner(onward.BPTT(), optax.adam(0.1), loss=softmax_cross_entropy, chunk=3, batch=2)
    run = programs_of(learner)[programs.run, programs.How(shared=shared)]
    xs, ys, weight = jnp.ones((6, 2, 3)), jnp.zeros((6, 2), jnp.int32), jnp.ones((6, 2))
    given = spread(learner.init(model, key=jr.key(2)), shared), xs, ys, None, weight, np.int32(2)
    text = run.lower(*given).compile().as_text()
    return dict(Counter(re.findall(r" (all-[a-z-]+|reduce-scatter|collective-permute)\(", text)))


def closed_loops(learner, carry, xs, ys, mesh) -> np.ndarray:
    """The weights after three steps of `predict` and `learn`: on one device, on the mesh, and while the mesh is set."""
    spread = NamedSharding(mesh, PartitionSpec("streams"))

    def loop(place):
        after = carry
        for x, y in zip(xs[:3], ys[:3], strict=True):
            after, said = learner.predict(after, place(x))
            after, metrics = learner.learn(after, said, place(y))
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves((after.arrays, metrics.losses))])

    ways = [loop(jnp.asarray), loop(lambda leaf: jax.device_put(leaf, spread))]
    with jax.set_mesh(mesh):
        ways.append(loop(lambda leaf: jax.device_put(leaf, spread)))
    return np.array(ways)


def on_explicit_axes(trained) -> dict[str, np.ndarray]:
    """What learners make of streams that are spread over a mesh as `jax.make_mesh` gives it, beside what they make of
    the same streams on one device; and what `fit` and `evaluate` do while such a mesh is set."""
    mesh = jax.make_mesh((2,), ("streams",))
    assert mesh.axis_types == (AxisType.Explicit,)
    keys, rng = jr.split(jr.key(0), 3), np.random.default_rng(0)
    model = onward.Model(onward.GRUCell(3, 4, key=keys[0]), eqx.nn.Linear(4, 2, key=keys[1]))
    xs, ys = rng.normal(size=(6, 4, 3)), jnp.asarray(rng.integers(0, 2, (6, 4)))
    spread = NamedSharding(mesh, PartitionSpec(None, "streams"))
    found = {}
    for estimator, chunk in ((onward.BPTT(), 4), (onward.SnAp(order=1), 1)):
        learner = onward.Learner(estimator, optax.adam(0.1), loss=softmax_cross_entropy, chunk=chunk, batch=4)
        carry = learner.init(model, key=keys[2], example=(jnp.asarray(xs[0, 0]), ys[0, 0]))
        everywhere = jax.device_put(carry, NamedSharding(mesh, PartitionSpec()))
        ways = [learner.run(carry, xs, ys)]
        ways += [learner.run(start, *jax.device_put((xs, ys), spread)) for start in (carry, everywhere)]
        with jax.set_mesh(mesh):
            ways += [learner.run(carry, xs, ys), learner.run(everywhere, *jax.device_put((xs, ys), spread))]
            halves = [jax.device_put((xs[at], ys[at]), spread) for at in (slice(0, 4), slice(4, 6))]
            after, first = learner.run(everywhere, *halves[0])
            after, second = learner.run(after, *halves[1])
            ways.append((after, first._replace(losses=jnp.concatenate([first.losses, second.losses]))))
        flat = [
            [np.asarray(leaf).ravel() for leaf in jax.tree.leaves((carry.arrays, carry.hidden, metrics.losses))]
            for carry, metrics in ways
        ]
        found[f"explicit_{type(estimator).__name__}"] = np.array([np.concatenate(each) for each in flat])
        held = ways[2][0].hidden.sharding.device_set, jax.typeof(ways[2][0].hidden).sharding.spec
        found[f"held_{type(estimator).__name__}"] = [len(held[0]), held[1][0] == "streams"]
    found["explicit_loop"] = closed_loops(learner, carry, xs, ys, mesh)
    plain = trained()[0]
    with jax.set_mesh(mesh):
        fitted, data, objective, key = trained()
        score = onward.evaluate(fitted.best, data, objective, softmax_cross_entropy, key=key)
        weights = fitted.best.readout.weight + jnp.zeros(())  # it may be computed with where the mesh is set
        told = onward.sequences.predict(fitted.best, np.zeros((2, 3, 2)))
    expected = onward.evaluate(plain.best, data, objective, softmax_cross_entropy, key=key)
    found["explicit_fit"] = np.array([[*np.ravel(weights), score], [*np.ravel(plain.best.readout.weight), expected]])
    found["explicit_predict"] = np.array([told, onward.sequences.predict(plain.best, np.zeros((2, 3, 2)))])
    sequences = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 2)))
    expected = onward.sequences.predict(plain.best, sequences)
    for place in (PartitionSpec("streams"), PartitionSpec(None, None, "streams")):  # outside of `set_mesh`
        told = onward.sequences.predict(plain.best, jax.device_put(sequences, NamedSharding(mesh, place)))
        found[f"explicit_predict_{len(place)}"] = np.array([told, expected])
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
