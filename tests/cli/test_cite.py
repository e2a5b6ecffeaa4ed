"""`onward cite`: every run names the papers behind its method."""

import json
import re
from pathlib import Path

import pytest

from onward.cli import main
from onward.registry import citations
from onward.registry.table import CELLS, ESTIMATORS, OPTIMIZERS

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def cited(folder, capsys) -> list[str]:
    """The keys of the papers that are printed for a run."""
    capsys.readouterr()
    assert main(["cite", str(folder)]) == 0
    return re.findall(r"^@\w+\{(\w+),$", capsys.readouterr().out, flags=re.M)


def written(folder, settings) -> Path:
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


def method(estimator, optimizer, cell):
    return {"estimator": estimator, "optimizer": optimizer, "cell": cell}


PAPERS = {
    "williams1990tbptt kag2021fptt kingma2015adam cho2014gru": {
        "text_digest": "",
        "method": method("tbptt", "fptt", "gru"),
    },
    "ollivier2015nobacktrack benzing2019optimal": {"learning": {"method": method("nobacktrack", "kalman", "vanilla")}},
    "williams1989rtrl menick2021snap ollivier2015nobacktrack": {
        "rate_factors": [1],
        "methods": ["rtrl", "snap-kalman:1"],
        "cell": "leaky",
    },
    "nath2019fpp hochreiter1997lstm": {"points": [], "methods": ["fpp,horizon=2"], "cell": "lstm"},
}


@pytest.mark.parametrize(("keys", "settings"), PAPERS.items())
def test_a_run_names_its_papers(keys, settings, tmp_path, capsys):
    assert cited(written(tmp_path, settings), capsys) == keys.split()


def test_a_reproduced_figure_names_its_paper(capsys):
    assert cited(RESULTS / "rbp" / "hopfield", capsys) == ["liao2018rbp"]


def test_every_name_of_the_registry_has_its_papers():
    assert citations.ESTIMATORS.keys() == ESTIMATORS.keys()
    assert citations.OPTIMIZERS.keys() | {"sgd"} == OPTIMIZERS.keys()
    assert citations.CELLS.keys() | {"vanilla", "leaky"} == set(CELLS)
    groups = (citations.ESTIMATORS, citations.OPTIMIZERS, citations.CELLS, citations.FIGURES)
    assert {paper for group in groups for papers in group.values() for paper in papers} == citations.PAPERS.keys()


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["cite", str(tmp_path)]) == 2
    assert "holds no run; name the folder of a run." in capsys.readouterr().err
    assert main(["cite"]) == 2
    assert "name a run: onward cite RUN." in capsys.readouterr().err
