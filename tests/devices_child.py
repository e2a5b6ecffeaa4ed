"""A process with two devices that trains as `test_training` does, and saves what came out: `devices_child FOLDER`."""

import os
import sys
from importlib import import_module
from pathlib import Path

import jax
import numpy as np
from conftest import COMPILE_QUICKLY

import onward
from onward import sequences
from onward.losses import softmax_cross_entropy
from onward.support.devices import shared_evenly
from onward.support.small_loops import request


def main(folder: Path) -> None:
    os.environ["XLA_FLAGS"] = COMPILE_QUICKLY
    request()
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_enable_x64", True)
    from tests.sequences.test_training import KEY, OBJECTIVE, data, fit, weights_score  # it computes

    fitting = import_module(f"{sequences.__name__}.fit")  # the name in the package is the function
    learn_one, devices, traced = fitting.learn_minibatch, [], []

    def looked_at(learner, objective, carry, memory, minibatch, steps):
        jax.debug.inspect_array_sharding(minibatch.xs, callback=lambda found: devices.append(len(found.device_set)))
        traced.append(minibatch)
        return learn_one(learner, objective, carry, memory, minibatch, steps)

    fitting.learn_minibatch = looked_at
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
    np.savez(
        folder / "found.npz",
        *jax.tree.leaves(whole.carry.arrays),
        resumed=np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(resumed.carry.arrays)]),
        history=[epoch[:2] for epoch in whole.history],
        resumed_history=[epoch[:2] for epoch in resumed.history],
        devices=devices,
        programs=len(traced),
        score=score,
        chosen=chosen,
        sizes=[shared_evenly(count, "sequences").mesh.size for count in (1, 2, 3, 4)],
        places=[len(place.device_set) for place in places],
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
