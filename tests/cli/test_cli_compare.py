"""`onward compare` and `onward reproduce`, tried as a user would: what works, and what is refused in one sentence."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import onward
from experiments.catalogue import names
from experiments.reproducing import RECIPES
from onward.cli import main
from onward.cli.compare_options import CompareOptions
from onward.cli.options import parse_options
from onward.registry.build import build_contestant, build_task
from onward.registry.method_names import COMPARISON
from onward.registry.table import CELLS
from onward.support.errors import UserError

METHODS = (
    "tbptt:3",
    "sliding:3",
    "rtrl",
    "snap",
    "uoro",
    "nobacktrack-kalman:2",
    "lowrank-kalman:2",
    "rtrl-adam",
    "tbptt-rmsprop",
    "artbp",
    "fpp:2",
)
WINDOWED = ("tbptt-rmsprop", "artbp")


def test_compare_leaves_a_table_a_picture_and_curves(tmp_path, capsys):
    folder = tmp_path / "run"
    words = ("--task", "anbn:1,3", "--methods", "nobacktrack-kalman,tbptt:15", "--budget", "300c", "--seeds", "2")
    assert main(["compare", *words, "--hidden-size", "3", "--run", str(folder)]) == 0
    said = capsys.readouterr()
    assert "aⁿbⁿ, n in [1, 3]: 300 characters a method, 2 seeds side by side." in said.out
    assert "entropy rate" in said.out
    assert "nobacktrack-kalman (1 of 2): 100%" in said.err
    assert sorted(p.name for p in folder.iterdir()) == [
        *("curve.png", "curve.svg", "curves.jsonl", "parts", "settings.json", "summary.json", "table.txt")
    ]
    assert (folder / "table.txt").read_text() in said.out


def test_reproduce_names_its_scale_and_says_what_it_found(tmp_path, capsys):
    folder = tmp_path / "run"
    command = ["reproduce", "nobacktrack/norms", "--scale", "0.0003", "--seeds", "2"]
    assert main([*command, "--run", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "The paper: " in said
    assert "Verdict: not decided. this run is smaller than the figure. By itself it says:" in said
    report = (folder / "report.md").read_text()
    title = "# NoBackTrack Appendix B: which norms are stable, on aⁿbⁿ, sigmoid units"
    assert report.splitlines()[0] == f"{title}, SCALED to 0.03 % of its length, 2 of its 10 seeds"
    assert f"- command: `onward {' '.join(command)}`" in report
    result = json.loads((folder / "result.json").read_text())
    assert result["scale"] == 0.0003
    assert [m["characters"] for m in result["methods"]] == [300] * 4
    assert all(len(m["closing_bits"]) == 2 for m in result["methods"])
    assert "seeds that diverged or were lost: half-invariant norms 0 of 2" in result["why"]


def contestant_of(word, *, symbols=4, **settings):
    return build_contestant(COMPARISON.method(word).but(**({"hidden_size": 3} | settings)), symbols)


def test_every_method_and_cell_can_be_built():
    for method in METHODS:
        for cell, entry in CELLS.items():
            if method == "nobacktrack-kalman:2" and not entry.units:
                with pytest.raises(UserError, match="lowrank"):
                    contestant_of(method, cell=cell)
                continue
            contestant = contestant_of(method, cell=cell)
            assert contestant.learner.chunk == (3 if method == "tbptt:3" else 15 if method in WINDOWED else 1)


def test_fptt_is_its_transformation_before_a_clip_and_adam():
    named = contestant_of("tbptt-fptt:4", alpha=0.2, rate=0.05)
    assert named.description.endswith("FPTT (α 0.2, β 0.5), norm clipped at 1, Adam 0.05")
    by_hand = optax.chain(onward.fptt(0.2), optax.clip_by_global_norm(1.0), optax.adam(0.05))
    ends = []
    for optimizer in (named.learner.optimizer, by_hand):
        W = jnp.array([1.0, -2.0])
        state = optimizer.init(W)
        for gradient in ([3.0, 1.0], [-1.0, 0.5], [0.2, 0.3]):
            updates, state = optimizer.update(jnp.array(gradient), state, W)
            W = optax.apply_updates(W, updates)
        ends.append(W)
    np.testing.assert_allclose(*ends, rtol=1e-12)


def test_every_figure_there_is_can_be_asked_for():
    assert sorted(RECIPES) == sorted(names)


def test_budgets_have_units():
    def budget(text):
        return tuple(parse_options(CompareOptions, ["--budget", text], program="onward compare").budget)

    assert budget("60s") == (60, None)
    assert budget("1.5m") == (90, None)
    assert budget("2h") == (7200, None)
    assert budget("1e6c") == (None, 10**6)


def test_a_text_can_be_compared_on(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcab" * 20)
    task = build_task(f"text:{path}")
    assert task.alphabet == "abc"
    assert task.source.symbols[:5].tolist() == [0, 1, 2, 0, 1]
    assert len(task.levels) == 3


WRONG = [
    (["compare", "--task", "anbm"], "unknown task 'anbm'; did you mean anbn? Choose from anbn, brackets,"),
    (
        ["compare", "--methods", "rtlr"],
        "unknown method 'rtlr'; did you mean rtrl? Choose from tbptt, sliding, artbp, continued, layerwise, rtrl",
    ),
    (["compare", "--methods", "rtrl-kalmann"], "unknown optimizer for rtrl 'kalmann'; did you mean kalman?"),
    (["compare", "--methods", "rtrl:3"], "method 'rtrl:3': rtrl takes no number; leave :3 out."),
    (["compare", "--methods", "tbptt:0"], "method 'tbptt:0': the window must be a whole number of at least 1"),
    (["compare", "--methods", "rtrl,rtrl"], "--methods names rtrl twice; leave one of them out."),
    (["compare", "--methods", "tbptt,tbptt:15"], "--methods has tbptt and tbptt:15, which are the same;"),
    (["compare", "--methods", " , "], "--methods must name at least one of tbptt,"),
    (["compare", "--methods", "tbptt,"], "--methods must have a name on both sides of each comma, got 'tbptt,'."),
    (["compare", "--budget", "0s"], "--budget must be above 0, got '0s'."),
    (["compare", "--budget", "-3s"], "--budget must be above 0, got '-3s'."),
    (["compare", "--budget", "60"], "--budget must be a number with its unit, s, m or h of time or c for characters"),
    (
        ["compare", "--budget", "60sec"],
        "--budget must be a number with its unit, s, m or h of time or c for characters",
    ),
    (
        ["compare", "--budget", "5c"],
        "--budget 5 characters has 5 characters, fewer than the 15 of one chunk of tbptt:15",
    ),
    (["compare", "anbn"], "onward compare does not know what to do with 'anbn'; put quotes around a value that has"),
    (["compare", "--budget", "0.3c"], "--budget must be at least one character, got '0.3c'."),
    (["compare", "--task", "anbn:8,4"], "--task anbn:8,4: "),
    (["compare", "--task", "anbn:1,2,3"], "--task anbn:1,2,3 has too many numbers; write it as anbn:K,L."),
    (["compare", "--task", "anbn:one"], "--task anbn:one: 'one' must be whole numbers with commas between them."),
    (["compare", "--task", "music:3"], "--task music:3: music takes no settings; leave :3 out."),
    (["compare", "--task", "text"], "--task text needs the path of a file; write it as text:FILE."),
    (["compare", "--task", "text:nowhere.txt"], "nowhere.txt does not exist; give the path of a UTF-8 text file."),
    (["compare", "--rate-factors", "1,0"], "--rate-factors must be different numbers above 0 with commas between"),
    (["compare", "--cell", "gruu"], "unknown cell 'gruu'; did you mean gru or mingru?"),
    (["compare", "--seeds", "0"], "--seeds must be a whole number of at least 1, got '0'."),
    (["reproduce", "nobacktrack/fig7"], "unknown figure 'nobacktrack/fig7'; did you mean nobacktrack/fig"),
    (["reproduce"], "say which figure to reproduce; there are nobacktrack/fig1, nobacktrack/fig2,"),
    (["reproduce", "--scale", "0"], "--scale must be a number above 0, got '0'."),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_what_is_wrong_is_said_in_one_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"onward: {sentence}")
    assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_text_shorter_than_a_chunk_is_refused(tmp_path, capsys):
    path = tmp_path / "short.txt"
    path.write_text("abcabc")
    folder = tmp_path / "run"
    assert main(["compare", "--task", f"text:{path}", "--methods", "tbptt:15", "--run", str(folder)]) == 2
    said = capsys.readouterr().err
    assert f"{path} has 6 characters, fewer than the 15 of one chunk of tbptt:15; give more characters" in said
    assert not folder.exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine")
    assert main(["compare", "--budget", "100c", "--run", str(tmp_path)]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]
