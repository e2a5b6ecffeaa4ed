"""The numbers of a running command: an endpoint for Prometheus and events for TensorBoard; skipped without both."""

from types import SimpleNamespace
from urllib.request import urlopen

import numpy as np
import pytest

from onward.cli.comparison_progress import ComparisonProgress
from onward.cli.metrics import metrics_of
from onward.cli.progress import ProgressLine
from onward.cli.stream_progress import StreamProgress
from onward.streams import learning
from onward.streams.standing import StreamStanding
from onward.support.errors import UserError
from onward.texts import learn
from onward.texts.standing import Standing
from tests.processes import free_port

pytestmark = pytest.mark.usefixtures("as_in_use")

pytest.importorskip("prometheus_client", reason="the extra onward[metrics] is not installed")
pytest.importorskip("tensorboardX", reason="the extra onward[metrics] is not installed")


def trained():
    line = ProgressLine(start=0, total=100)
    line.update(learn.Report(Standing(characters=10), characters=10, bits=25.0, seconds=2.0, influence_norm=0.5))


def streamed():
    report = {"standing": StreamStanding(lines=7), "lines": 7, "seconds": 2.0}
    errors = {"errors": np.array([1.0, 2.0]), "persistence": np.array([3.0, 4.0])}
    line = StreamProgress(SimpleNamespace(lag=5))  # type: ignore[reportArgumentType]
    line.update(SimpleNamespace(**report, **errors))  # type: ignore[reportArgumentType]
    assert {*report, *errors} <= {*learning.Report._fields}


def compared():
    ComparisonProgress(["rtrl"]).update("rtrl", 0.5, 1.25)


@pytest.mark.parametrize(
    ("command", "run", "expected"),
    [
        ("train", trained, {'bits{of=""}': 2.5, 'characters_a_second{of=""}': 5, 'step{of=""}': 10}),
        ("stream", streamed, {'lines_a_second{of=""}': 3.5, 'error{of=""}': 1.5, 'lag{of=""}': 5, 'step{of=""}': 7}),
        ("sweep", compared, {'bits{of="rtrl"}': 1.25, 'done{of="rtrl"}': 0.5}),
    ],
)
def test_every_long_command_tells_its_numbers(command, run, expected, tmp_path):
    port = free_port()
    with metrics_of(command, SimpleNamespace(tensorboard=tmp_path / "events", prometheus=port)):
        run()
        text = urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    for name, number in expected.items():
        assert float(found[f"onward_{command}_{name}"]) == number
    (events,) = (tmp_path / "events").iterdir()
    tags = [name.partition("{")[0] for name in expected if not name.startswith("step")]
    assert all(tag.encode() in events.read_bytes() for tag in tags)
    run()  # nobody asks for its numbers


def test_a_port_that_is_taken_is_named(tmp_path):
    port = free_port()
    with metrics_of("train", SimpleNamespace(prometheus=port)):
        with pytest.raises(UserError, match=f"--prometheus {port} cannot be listened on"):
            with metrics_of("train", SimpleNamespace(prometheus=port)):
                pass
