"""The registry: one syntax, one name for each option, in every command, its help and the shell's completion."""

import shutil
import subprocess
import sys
from typing import get_args, get_type_hints

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import msgspec
import pytest

import onward
from onward.cli.app import COMMANDS, main, options_of
from onward.cli.compare_options import CompareOptions
from onward.cli.completion import bash, fish, zsh
from onward.cli.options import ALSO, completions, parse_options
from onward.cli.settings import chosen_method
from onward.estimators._stages import without_units
from onward.registry import build
from onward.registry.describe import describe
from onward.registry.method_names import AUDIT, COMPARISON, STREAM, TEXT, Method, split_method
from onward.registry.table import CELLS, ESTIMATORS, OPTIMIZERS
from onward.support.errors import UserError

WITH_EXAMPLES = ("stream", "publish", "sweep", "predict", "completion")  # whose lines cannot be wrapped
JOBS = {"train": TEXT, "audit": AUDIT, "compare": COMPARISON, "sweep": COMPARISON, "stream": STREAM}


def test_an_entry_in_the_table_is_all_that_a_new_name_needs():
    """Completion, syntax, defaults and words follow from it without JAX, and the objects with JAX."""
    script = """if True:
        import sys
        from onward.registry import table
        from onward.registry.entries import CellEntry, EstimatorEntry, TaskEntry

        table.CELLS["my-cell"] = CellEntry("my cell's words", lambda: Ours)
        table.ESTIMATORS["mine"] = EstimatorEntry(
            "my estimator's words", lambda method: ("made", method.horizon), "horizon", settings={"horizon": 8}
        )
        table.TASKS["my-task"] = TaskEntry("my task's words", "my-task:N", lambda n=1: ("task", n), 1, "my-cell")

        from onward.cli.app import options_of
        from onward.cli.options import completions
        from onward.registry.describe import describe
        from onward.registry.method_names import COMPARISON, STREAM
        from onward.registry.tasks import parse_task, usual_cell

        for command in ("train", "compare", "sweep", "stream", "audit"):
            found = completions(options_of(command))
            assert "my-cell" in found["--cell"].words, command
            assert "mine-adam" in found["--methods" if command == "compare" else "--method"].words, command
            assert "my-task" in found["--task"].words if command in ("compare", "sweep") else True, command
        assert STREAM.method("mine").horizon == 8
        assert usual_cell(parse_task("my-task:3")) == "my-cell"
        method = COMPARISON.method("mine-adam:3").but(cell="my-cell")
        words = "mine (horizon 3), my-cell cell with 20 units, Adam 0.003, norm clipped at 1"
        assert describe(method) == words, describe(method)
        assert "jax" not in sys.modules

        from onward.registry.build import build_estimator, build_task

        assert build_estimator(method) == ("made", 3)
        assert build_task("my-task:5") == ("task", 5)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_is_built_in_every_job(cell):
    """Also those whose readout sees more numbers than there are units."""
    key, changes = jr.key(0), {"cell": cell, "hidden_size": 3}
    models = {
        5: lambda: build.text_model(TEXT.method().but(**changes), 5, key=key),
        2: lambda: build.stream_model(STREAM.method().but(**changes), 5, 2, key=key),
        4: lambda: build.build_contestant(COMPARISON.method().but(**changes), 4).make_model(key),
    }

    def predicted(model, inputs):
        return model.predict(model.cell(model.cell.init_hidden(), jnp.zeros(inputs)))

    for outputs, make in models.items():
        inputs = 4 if outputs == 4 else 5
        assert eqx.filter_eval_shape(lambda make=make, inputs=inputs: predicted(make(), inputs)).shape == (outputs,)


@pytest.mark.parametrize("job", [TEXT, COMPARISON, STREAM, AUDIT], ids=["text", "comparison", "stream", "audit"])
def test_every_method_of_every_job_is_built_and_read_back(job):
    assert set(job.known) | set(job.refuses) == set(ESTIMATORS)
    for word in job.words:
        method = job.method(word)
        build.build_learner(method)
        assert msgspec.json.decode(msgspec.json.encode(method), type=Method) == method
        assert describe(method).startswith(method.estimator)


def test_a_number_after_the_colon_is_the_size_in_every_job():
    for job in (TEXT, COMPARISON):
        for estimator, entry in ESTIMATORS.items():
            if entry.size is not None:
                assert getattr(job.method(f"{estimator}:7"), entry.size) == 7
    assert STREAM.method("sliding-kalman:3").horizon == 3
    with pytest.raises(UserError, match="method 'tbptt:15': a stream is learned at every event"):
        STREAM.method("tbptt:15")
    assert (STREAM.method("snap-sgd").rate, COMPARISON.method("snap-sgd").rate) == (0.1, 1.0)
    with pytest.raises(UserError, match="fpp replays stretches"):
        STREAM.method("fpp")
    with pytest.raises(UserError, match="fpp replays its past and has no gradient of a stretch"):
        AUDIT.method("fpp")


@pytest.mark.parametrize("number", ["", "0", "-1", "x", "1.5", "²", "1000001", " 3"])
def test_a_size_that_is_none_is_refused(number):
    with pytest.raises(UserError, match=r"method 'tbptt:.*': the window must be a whole number"):
        split_method(f"tbptt:{number}")


def test_what_is_given_twice_must_be_the_same():
    assert chosen_method(TEXT, "tbptt:7", window=7).window == 7
    with pytest.raises(UserError, match="--method tbptt:7 has the window 7 and --window 8; leave one of them out"):
        chosen_method(TEXT, "tbptt:7", window=8)
    with pytest.raises(UserError, match="--method nobacktrack:2 has the rank 2 and --rank 3"):
        chosen_method(TEXT, "nobacktrack:2", rank=3)
    assert chosen_method(TEXT, "nobacktrack:48", hidden_size=16).rank == 48
    assert chosen_method(TEXT, "nobacktrack", hidden_size=16).rank == 2
    blocks = msgspec.structs.replace(TEXT.method("nobacktrack"), rank=64, blocks=True, per_unit=msgspec.UNSET)
    assert blocks.but(hidden_size=16).rank == 16


JOB_IDS = ["text", "comparison", "stream", "audit"]


@pytest.mark.parametrize("job", [TEXT, COMPARISON, STREAM, AUDIT], ids=JOB_IDS)
def test_nobacktrack_means_the_same_in_every_job(job):
    """A number after the colon, or 2, terms for each unit; `lowrank` is the form for any cell."""
    for word, terms in (("nobacktrack", 2), ("nobacktrack:3", 3), ("nobacktrack-kalman:3", 3)):
        built = build.build_learner(job.method(word)).estimator
        assert (built.rank, built.per_unit, built.blocks) == (1, terms, False)
        assert f"rank {terms} per unit" in describe(job.method(word))
    for word, rank in (("lowrank", 1), ("lowrank-adam:3", 3)):
        built = build.build_learner(job.method(word).but(cell="antisymmetric")).estimator
        assert (built.rank, built.per_unit, built.blocks) == (rank, None, False)
        assert "per unit" not in describe(job.method(word))


def test_nobacktrack_refuses_a_cell_without_units():
    for cell, entry in CELLS.items():
        assert entry.units == (without_units(entry.make()(2, 2, key=jr.key(0))) is None)
        if entry.units:
            assert chosen_method(TEXT, "nobacktrack", cell=cell).per_unit is True
        else:
            with pytest.raises(UserError, match=f"weights of {cell} belong to no unit; .* lowrank or snap"):
                chosen_method(TEXT, "nobacktrack:3", cell=cell)
            build.build_learner(chosen_method(TEXT, "lowrank:3", cell=cell))


def test_layerwise_is_a_window_continued_within_each_layer():
    for job, window in ((TEXT, 16), (COMPARISON, 15)):
        method = job.method("layerwise")
        learner = build.build_learner(method)
        assert isinstance(learner.estimator, onward.estimators.ContinuedBPTT)
        assert learner.estimator.edge == onward.estimators.Layerwise(onward.RTRL())
        assert (learner.chunk, job.method("layerwise:8").window) == (window, 8)
    assert build.build_learner(STREAM.method("layerwise")).estimator == onward.estimators.Layerwise(onward.RTRL())
    assert (TEXT.method("layerwise").cell, TEXT.method("layerwise").optimizer) == ("mingru-block", "falling")
    assert {method.optimizer for method in STREAM.methods.values()} == {"adam"}


def test_a_falling_rate_falls(promotion):
    """After 6,000 updates it is half of Adam's: 1/√(1 + 6000/2000)."""
    falling = TEXT.method("tbptt-falling")
    for count, part in ((0, 1.0), (6000, 0.5)):
        sizes = []
        for method in (falling, TEXT.method("tbptt-adam").but(rate=falling.rate)):
            step, W = build.build_optimizer(method), jnp.zeros(1)
            state = jax.tree.map(lambda n, count=count: n + count if n.dtype == jnp.int32 else n, step.init(W))
            sizes.append(float(step.update(jnp.ones(1), state, W)[0][0]))
        assert sizes[0] == pytest.approx(part * sizes[1], rel=1e-6)


def test_a_cell_with_too_few_units_is_refused():
    with pytest.raises(UserError, match="mingru-block needs a --hidden-size of at least 2, got 1"):
        chosen_method(TEXT, "layerwise", hidden_size=1)


def test_a_setting_that_a_method_needs_must_be_there():
    kept = msgspec.to_builtins(TEXT.method("snap-fptt"))
    with pytest.raises(msgspec.ValidationError, match="alpha is a setting of snap with fptt"):
        msgspec.convert({name: value for name, value in kept.items() if name != "alpha"}, Method)
    with pytest.raises(msgspec.ValidationError, match="order is a setting of snap"):
        msgspec.convert(kept | {"order": None}, Method)
    with pytest.raises(msgspec.ValidationError, match="unknown cell 'gru2'; did you mean gru"):
        msgspec.convert(kept | {"cell": "gru2"}, Method)


def test_steps_are_proportional_to_the_rate(promotion):
    """The optimisers are built at a rate of 1, and scaled: the same as built at the rate."""
    import optax

    W = jnp.array([1.0, -2.0])
    by_hand = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.005))
    ends = []
    for optimizer in (build.build_optimizer(TEXT.method("tbptt")), by_hand):
        state, at = optimizer.init(W), W
        for gradient in ([3.0, 1.0], [-1.0, 0.5]):
            updates, state = optimizer.update(jnp.array(gradient), state, at)
            at = optax.apply_updates(at, updates)
        ends.append(at)
    assert jnp.array_equal(*ends)


def test_the_settings_of_a_run_from_before_are_read():
    """Those of `onward train` of version 0.1 before the registry, with its own fields and no others."""
    before = (
        b'{"estimator":"tbptt","cell":"lstm","hidden_size":128,"rate":0.005,"optimizer":"adam","decay":false,'
        b'"cell_rate_factor":1.0,"clip":1.0,"window":16,"horizon":null,"cut":null,"rank":null,"blocks":false,'
        b'"order":null}'
    )
    assert msgspec.json.decode(before, type=Method) == TEXT.method()
    assert msgspec.json.encode(TEXT.method()) == before


# Options


# A paper's methods have names of their own, which may hold commas, and its trainings have a budget of time alone.
OF_PAPERS = {("reproduce", "--methods"), ("reproduce", "--budget")}


def test_an_option_has_one_meaning_in_all_commands():
    """What is the same is written once: the same type, metavar and words under the same name."""
    seen = {}
    for command in COMMANDS:
        for name, completion in completions(options_of(command)).items():
            hint = get_type_hints(options_of(command))[name.removeprefix("--").replace("-", "_")]
            kinds = {kind for kind in (get_args(hint) or (hint,)) if kind is not type(None)}
            if name == "--compare" or (command, name) in OF_PAPERS:
                continue
            metavar = completion and completion.metavar
            assert seen.setdefault(name, (kinds, metavar)) == (kinds, metavar), f"{name} of {command}"
    assert not set(seen) & set(ALSO) - {"--method"}


@pytest.mark.parametrize(
    ("command", "words", "name", "value"),
    [
        ("train", ["--lr", "0.5"], "rate", 0.5),
        ("train", ["--learning-rate=0.5"], "rate", 0.5),
        ("train", ["--hidden_size", "3"], "hidden_size", 3),
        ("train", ["--steps", "100"], "characters", 100),
        ("train", ["--units", "3"], "hidden_size", 3),
        ("stream", ["--units", "3"], "hidden_size", 3),
        ("stream", ["--every", "3"], "checkpoint_every", 3.0),
        ("stream", ["--lr", "0.5"], "rate", 0.5),
        ("audit", ["--steps", "30"], "characters", 30),
        ("compare", ["--method", "rtrl"], "methods", ("rtrl",)),
        ("sample", ["--length", "9"], "sample_length", 9),
    ],
)
def test_other_names_of_an_option_are_understood(command, words, name, value):
    assert getattr(parse_options(options_of(command), words, program=f"onward {command}"), name) == value


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["compare", "--lr", "0.1"], "unknown option --lr; each method has its own rate, which --rate-factors"),
        (["sweep", "--rate=0.1"], "unknown option --rate=0.1; write the settings to sweep before the options:"),
        (["export", "--lr", "3"], "unknown option --lr; "),
        (["runs", "--nonsense", "3"], "unknown option --nonsense; see onward runs --help."),
        (["train", "--hiden_size", "3"], "unknown option --hiden_size; did you mean --hidden-size?"),
    ],
)
def test_an_option_that_a_command_lacks_is_answered(words, sentence, capsys):
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"onward: {sentence}")
    assert said.err.count("\n") == 1


def test_all_methods_and_cells_are_in_all_commands():
    for command, job in JOBS.items():
        found = completions(options_of(command))
        assert found["--cell"].words == tuple(CELLS)
        assert found["--methods" if command == "compare" else "--method"].words == job.words


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", [80, 200, 60])
def test_help_fits_into_eighty_columns(command, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    assert said.startswith(f"usage: onward {command}")
    assert max(map(len, said.splitlines())) <= (80 if command in WITH_EXAMPLES else min(columns, 80))
    assert "DESCRIPTION" not in said
    assert "these three" not in said


def test_the_list_of_commands_fits_too(capsys):
    assert main([]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_defaults_are_named(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    said = "".join(capsys.readouterr().out.replace("│", " ").split())
    assert "(default:nobacktrack-kalman,tbptt:15,rtrl)" in said
    assert parse_options(CompareOptions, [], program="onward compare") == CompareOptions()


# Completion


def complete(tmp_path, *words):
    """What bash proposes for the last of the words."""
    script = tmp_path / "onward.bash"
    script.write_text(bash())
    line = " ".join(f"'{word}'" for word in words)
    asks = f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _onward; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", asks], capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_from_the_registry(tmp_path):
    assert complete(tmp_path, "onward", "s") == ["stream", "sweep", "sample"]
    assert complete(tmp_path, "onward", "train", "--cell", "l") == ["leaky", "lstm", "lru"]
    assert complete(tmp_path, "onward", "train", "--method", "rtrl-") == [f"rtrl-{name}" for name in OPTIMIZERS]
    assert complete(tmp_path, "onward", "compare", "--methods", "rtrl,artbp-k") == ["rtrl,artbp-kalman"]
    assert complete(tmp_path, "onward", "compare", "--task", "st") == ["stochastic-world"]
    assert complete(tmp_path, "onward", "sweep", "--ch") == ["--characters"]
    assert complete(tmp_path, "onward", "train", "--seed", "") == []
    assert complete(tmp_path, "onward", "completion", "f") == ["fish"]


def test_zsh_and_fish_know_every_option():
    assert zsh().endswith(bash())
    lines = fish().splitlines()
    for command in COMMANDS:
        here = [line for line in lines if f"'__fish_seen_subcommand_from {command}'" in line]
        for name in completions(options_of(command)):
            assert any(f" -l {name.removeprefix('--')}" in line for line in here)


def test_completion_asks_for_a_shell(capsys):
    assert main(["completion"]) == 2
    assert "onward completion bash|zsh|fish" in capsys.readouterr().err
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == bash()


def test_fpp_learns_a_text_too(promotion):
    method = TEXT.method("fpp:2").but(hidden_size=3, buffer=20)
    learner = build.build_learner(method)
    model = build.text_model(method, 4, key=jr.key(0))
    carry = learner.init(model, key=jr.key(1), example=(jnp.zeros(4), jnp.zeros((), jnp.int32)))
    xs, ys = jnp.zeros((4, 4)), jnp.zeros(4, jnp.int32)
    assert jax.eval_shape(lambda carry: learner.run(carry, xs, ys)[1].losses, carry).shape == (4,)
    assert isinstance(learner.estimator, onward.FPP)


def test_a_task_is_known_again():
    """By the numbers of its source, and not by where that lies in memory."""
    for word in ("anbn:1,3", "cycle-world:4", "stochastic-world", "cue:3", "memory-chain:3,2"):
        assert build.build_task(word).digest == build.build_task(word).digest
    for word, other in (("anbn:1,3", "anbn:1,4"), ("cue:3", "cue:4"), ("memory-chain:3,1", "memory-chain:3,2")):
        assert build.build_task(word).digest != build.build_task(other).digest
