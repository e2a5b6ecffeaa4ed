"""One of several processes that train together: `processes_child FOLDER PROCESSES INDEX PORT DEVICES`.

It saves what it found in FOLDER, so that the bits can be compared with those of other processes. If FOLDER/kill holds
its number, it kills itself in the middle of the first training.
"""

import os
import signal
import sys
import unittest.mock
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from conftest import COMPILE_QUICKLY
from jax.sharding import NamedSharding, PartitionSpec

import onward
from onward.losses import softmax_cross_entropy, terminal_squared_error
from onward.sequences import Callback, Drawn, Streamed, Tracks
from onward.support.errors import UserError
from onward.support.small_loops import request
from onward.tasks.adding import Adding

BATCH = 8
ADDING = Drawn(Adding(6), batch=BATCH, minibatches=3)
ADDED = Drawn(Adding(6), batch=BATCH, minibatches=2)
TERMINAL = onward.Terminal(3)
EPOCHS = int(os.environ.get("EPOCHS", "3"))


def adding_learner() -> onward.Learner:
    optimizer = optax.chain(onward.fptt(0.1), optax.clip_by_global_norm(1.0), optax.adam(0.05))
    return onward.Learner(onward.BPTT(), optimizer, loss=terminal_squared_error, chunk=3, batch=BATCH)


def adding_model() -> onward.Model:
    return onward.Model(onward.LSTMCell(2, 4, key=jr.key(0)), eqx.nn.Linear(4, 1, key=jr.key(1)))


def adding(folder: Path, *, callbacks=()) -> onward.sequences.Fitted:
    learner = adding_learner()

    def score(model):
        return onward.evaluate(model, ADDED, TERMINAL, onward.losses.squared_error, key=jr.key(9))

    return onward.fit(
        learner,
        learner.init(adding_model(), key=jr.key(2)),
        ADDING,
        TERMINAL,
        epochs=EPOCHS,
        key=jr.key(3),
        validate=score,
        callbacks=callbacks,
        progress=False,
        checkpoint=folder / "checkpoint.npz",
        checkpoint_every=0.0,
        block=1,
    )


def text() -> onward.sequences.Fitted:
    """Characters, with a forward estimator whose states stay with their tracks."""
    symbols = np.random.default_rng(0).integers(0, 5, 400)
    cell = onward.cells.EmbeddedCell(5, onward.GRUCell(3, 4, key=jr.key(0)), size=3, key=jr.key(1))
    model = onward.Model(cell, eqx.nn.Linear(4, 5, key=jr.key(2)))
    learner = onward.Learner(onward.BPTT(), optax.adam(0.05), loss=softmax_cross_entropy, chunk=5, batch=BATCH)
    data = Tracks(symbols, batch=BATCH, steps=10)
    carry = learner.init(model, key=jr.key(3))
    observe = onward.observing.update_norms
    return onward.fit(
        learner, carry, data, onward.EveryStep(5), epochs=2, key=jr.key(4), progress=False, observe=observe
    )


def sharded(whole: bool) -> onward.sequences.Fitted:
    """Classes at the end, from a source that gives this process's rows alone, or from one that gives all of them."""
    mine = slice(None) if whole else _mine()

    def source(epoch):
        draw = np.random.default_rng(epoch)
        for _ in range(3):
            xs, ys = draw.normal(size=(BATCH, 4, 2)).astype(np.float32), draw.integers(0, 3, BATCH)
            lengths = draw.integers(1, 5, BATCH)
            yield xs[mine], ys[mine], lengths[mine]

    data = Streamed(source, batch=BATCH, steps=4, minibatches=3, sharded=not whole)
    model = onward.Model(onward.VanillaCell(2, 3, key=jr.key(0)), eqx.nn.Linear(3, 3, key=jr.key(1)))
    loss = onward.losses.terminal_cross_entropy
    learner = onward.Learner(onward.RTRL(), optax.sgd(0.1), loss=loss, chunk=2, batch=BATCH)
    objective, carry = onward.TerminalClasses(2, classes=3), learner.init(model, key=jr.key(2))
    return onward.fit(learner, carry, data, objective, epochs=2, key=jr.key(5), progress=False, block=2)


def _mine() -> slice:
    rows = BATCH // jax.process_count()
    return slice(rows * jax.process_index(), rows * (jax.process_index() + 1))


def streams(estimator, mesh) -> tuple:
    """Two calls of `Learner.run` on streams that the processes hold together."""
    place = NamedSharding(mesh, PartitionSpec(None, "streams"))
    draw = np.random.default_rng(0)
    xs, ys = draw.normal(size=(6, BATCH, 2)).astype(np.float32), draw.normal(size=(6, BATCH, 1)).astype(np.float32)
    xs, ys = (jax.make_array_from_process_local_data(place, each[:, _mine()], each.shape) for each in (xs, ys))
    model = onward.Model(onward.VanillaCell(2, 3, key=jr.key(0)), eqx.nn.Linear(3, 1, key=jr.key(1)))
    loss = onward.losses.squared_error
    learner = onward.Learner(estimator, optax.adam(0.05), loss=loss, chunk=2, batch=BATCH)
    carry = learner.init(model, key=jr.key(2), example=(jnp.zeros(2), jnp.zeros(1)))
    carry, first = learner.run(carry, xs, ys)
    carry, second = learner.run(carry, xs, ys)
    held = jax.tree.leaves(carry.hidden)[0]
    assert held.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec("streams")), held.ndim), held.sharding
    losses = jax.jit(
        lambda *each: jnp.stack([e.sum(0) for e in each]).mean(1), out_shardings=NamedSharding(mesh, PartitionSpec())
    )
    return carry.arrays, losses(first.losses, second.losses)


def disagreements() -> dict[str, np.ndarray]:
    """What is said if the processes differ in the chunk, the batch, the data or the version of onward."""
    index, found = jax.process_index(), {}

    def said(what: str, *, chunk: int = 3, batch: int = BATCH, seed: int = 0) -> None:
        of_alike = adding_learner()
        learner = onward.Learner(
            of_alike.estimator, of_alike.optimizer, loss=terminal_squared_error, chunk=chunk, batch=batch
        )
        xs = np.random.default_rng(seed).normal(size=(2 * BATCH, 6, 2))
        data = onward.Sequences(xs, xs.sum(1)[:, :1], batch=batch)
        carry = learner.init(adding_model(), key=jr.key(2))
        found[f"disagreement_{what}"] = np.array("nothing")
        try:
            onward.fit(learner, carry, data, TERMINAL, epochs=1, key=jr.key(3), progress=False)
        except UserError as error:
            found[f"disagreement_{what}"] = np.array(str(error))

    said("chunk", chunk=3 + 3 * index)
    said("batch", batch=BATCH if index == 0 else 2 * BATCH)
    said("data", seed=index)
    with unittest.mock.patch("onward.sequences._fit_checks.__version__", f"0.{index}"):
        said("version")
    return found


def others() -> dict[str, np.ndarray]:
    """What the other trainings find."""
    mesh = jax.make_mesh((jax.device_count(),), ("streams",), (jax.sharding.AxisType.Auto,))
    explicit = jax.make_mesh((jax.device_count(),), ("streams",))
    return {
        "text": numbers((fitted := text()).carry),
        "text_history": np.array([epoch.loss for epoch in fitted.history]),
        "sharded": numbers((fitted := sharded(whole=False)).carry),
        "sharded_history": np.array([epoch.loss for epoch in fitted.history]),
        "whole": numbers(sharded(whole=True).carry),
        "streams": numbers(streams(onward.SnAp(order=1), mesh)),
        "streams_explicit": numbers(streams(onward.SnAp(order=1), explicit)),
    }


def numbers(tree) -> np.ndarray:
    return np.concatenate(
        [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]
    )


@contextmanager
def as_there() -> Iterator[None]:
    """A context in which another process computes as this program does."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


def main(folder: Path, processes: int, index: int, port: int, devices: int) -> None:
    os.environ["XLA_FLAGS"] = COMPILE_QUICKLY
    request()
    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        address = f"127.0.0.1:{port}"
        jax.distributed.initialize(address, processes, index, coordinator_bind_address=address)

    def kill(progress):
        victim = (folder / "kill").read_text() if (folder / "kill").exists() else ""
        if victim == str(index) and (progress.epoch, progress.minibatch) == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        added = adding(folder, callbacks=[Callback(report=kill)])
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(2)
    found = {
        "adding": numbers((added.carry, added.best)),
        "history": np.array([[epoch.loss, epoch.score] for epoch in added.history]),
    }
    if "EPOCHS" not in os.environ:
        found |= others()
        found |= disagreements() if processes > 1 else {}
    np.savez(folder / f"found-{index}.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
