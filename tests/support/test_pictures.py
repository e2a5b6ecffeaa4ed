"""What pictures do with text from users and with failures, and how they use their space."""

import dataclasses

import numpy as np
import pytest

from onward.comparison.compare import Budget, Comparison, MethodResult
from onward.comparison.compare_report import _draw_result, _span, draw
from onward.streams.picture import draw_errors
from onward.support import pictures
from onward.support.files import JsonLines
from onward.support.pictures import lettering, picture, save_picture
from onward.tasks.symbols import SymbolTask
from onward.texts.curve import CurveLabels, draw_curve
from onward.texts.standing import Point

HOSTILE = "$\\frac$ a$x$b \\$ \x1b[2J \udce9 _{ ^ % & <b> \n漢字"


@pytest.fixture(autouse=True)
def no_memory():
    pictures._fonts_for.cache_clear()


@pytest.mark.parametrize("kind", ["png", "svg"])
@pytest.mark.filterwarnings("error")
def test_any_name_can_be_drawn(kind, tmp_path):
    with JsonLines(tmp_path / "metrics", length=0) as log:
        log.append(Point(32, 32, 2.0, 2.0))
    drawn = draw_curve(tmp_path / "metrics", kind, CurveLabels(HOSTILE, HOSTILE, 4.0, 3.0))
    assert drawn.startswith(b"\x89PNG" if kind == "png" else b"<?xml")


def test_dollars_are_dollars_and_letters_that_no_font_has_are_code_points(caplog):
    with picture((2.0, 2.0), "svg") as (figure, _):
        title = figure.suptitle(lettering("$x$ 漢字 \\$"))
        assert not title._preprocess_math(title.get_text())[1]
        assert title._preprocess_math(title.get_text())[0] in ("$x$ [U+6F22 U+5B57] \\$", "$x$ 漢字 \\$")
    if "U+6F22" in title.get_text():
        assert caplog.messages == [
            "No font on this machine has the letters U+5B57, U+6F22: the pictures name them by these code points."
        ]


def test_letters_are_drawn_in_another_font_that_has_them(caplog):
    """One that comes with the drawing library has letters that the usual one lacks."""
    from matplotlib import font_manager

    usual = pictures._letters_of(font_manager.findfont(pictures.FONT))
    more = sorted(pictures._letters_of(font_manager.findfont("STIXGeneral")) - usual)
    text = "".join(map(chr, more[:3]))
    with picture((2.0, 2.0), "png") as (figure, _):
        assert lettering(text) == text
        figure.suptitle(text)
        assert len(figure.texts[0].get_fontfamily()) > 1
    assert not caplog.messages


def test_a_picture_is_never_worth_a_run(tmp_path, caplog):
    for number, error in enumerate(
        [MemoryError(), RuntimeError("two\nlines."), OSError(28, "No space left on device")]
    ):

        def fail(error=error):
            raise error

        save_picture(tmp_path / f"{number}.png", fail)
    save_picture(tmp_path / "missing" / "3.png", lambda: b"x")
    (tmp_path / "4.png").mkdir()
    save_picture(tmp_path / "4.png", lambda: b"x")
    save_picture(tmp_path / "5.png", lambda: None)
    assert [path.name for path in tmp_path.iterdir()] == ["4.png"]
    reasons = ["MemoryError", "two lines", "[Errno 28] No space left on device", "[Errno 2] No such", "is a folder"]
    assert len(caplog.messages) == len(reasons)
    for number, (message, reason) in enumerate(zip(caplog.messages, reasons, strict=True)):
        assert message.startswith("The picture /")
        assert f"{number}.png was not written (" in message
        assert reason in message
        assert message.endswith("; everything else was.")
        assert "\n" not in message


def test_the_last_point_of_a_stream_is_not_of_leftovers_alone(tmp_path, monkeypatch):
    from onward.streams.standing import Point

    with JsonLines(tmp_path / "metrics", length=0) as log:
        for events, window, error in ((1000, 1000, 1.0), (2000, 1000, 1.0), (2003, 3, 0.0)):
            log.append(Point(events, window, error, 2.0, 1.0, 2.0))
    seen = []
    monkeypatch.setattr("matplotlib.axes.Axes.plot", _noting(seen))
    draw_errors(tmp_path / "metrics", "svg", title="t", subtitle="s", classes=False)
    ends, errors = seen[1]
    assert ends.tolist() == [1000, 2003]
    assert errors.tolist() == pytest.approx([1.0, 1000 / 1003])


def _noting(seen):
    from matplotlib.axes import Axes

    plot = Axes.plot

    def noting(self, x, y, *rest, **named):
        seen.append((np.asarray(x), np.asarray(y)))
        return plot(self, x, y, *rest, **named)

    return noting


def result(name, *, start, end, characters=20_000):
    ends = np.geomspace(32, characters, 40).astype(int)
    windows = (end + (start - end) * (32 / ends) ** 0.7)[None] * np.array([[0.98], [1.02]])
    return MethodResult(
        whole=windows.mean(1),
        closing=windows[:, -1],
        diverged=np.zeros(2, int),
        lost=np.zeros(2, bool),
        right=np.zeros(2),
        closing_right=np.zeros(2),
        name=name,
        description=name,
        rate_factor=1.0,
        characters=characters,
        seconds=1.0,
        compile_seconds=1.0,
        ends=ends,
        windows=windows,
        means=windows,
    )


LEVELS = {"order-0 entropy": 4.5, "gzip": 3.6, "xz": 3.4, "bzip2": 3.2, "entropy rate": 0.9}


@pytest.mark.parametrize(
    "ends", [(2.3, 2.9), (0.95, 1.3), (4.2, 4.4), (0.02, 0.3)], ids=["text", "low", "hardly learned", "nearly zero"]
)
def test_the_curves_of_a_comparison_have_most_of_the_picture(ends):
    results = [result(str(end), start=4.6, end=end) for end in ends]
    task = dataclasses.replace(_task(), levels=LEVELS)
    low, high = _span(results, task, 100)
    windows = np.concatenate([r.windows[:, r.ends >= 100].ravel() for r in results])
    shown = windows[(windows >= low) & (windows <= high)]
    assert np.ptp(shown) > (high - low) / 2
    for r in results:  # their ends are shown, where they are compared
        assert low < r.closing.min() <= r.closing.max() < high


def test_levels_outside_the_picture_are_named_in_the_legend(monkeypatch):
    legends = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.legend", lambda axes, **_: legends.append(axes.get_legend_handles_labels())
    )
    results = (result("a", start=4.6, end=2.3), result("b", start=4.6, end=2.9))
    draw(Comparison(dataclasses.replace(_task(), levels=LEVELS), Budget(None, 20_000), 2, results), "svg")
    (handles, labels), *_ = legends
    said = dict(zip(labels, handles, strict=True))
    assert {"entropy rate: 0.900 (below)", "gzip: 3.600", "xz: 3.400"} <= said.keys()
    of_levels = [(line.get_color(), line.get_linestyle()) for label, line in said.items() if "last tenth" not in label]
    assert len({colour for colour, _ in of_levels}) == len(LEVELS)


def _task() -> SymbolTask:
    from onward.registry.build import build_task

    return build_task("anbn:1,3", characters=100)


# What a reader with one kind of cone missing sees of linear RGB: Viénot, Brettel & Mollon 1999, for red and green.
SIGHT = {
    "all cones": np.eye(3),
    "no red cones": np.array([[0.1124, 0.8876, 0.0], [0.1124, 0.8876, 0.0], [0.0040, -0.0040, 1.0]]),
    "no green cones": np.array([[0.2927, 0.7073, 0.0], [0.2927, 0.7073, 0.0], [-0.0223, 0.0223, 1.0]]),
}


@pytest.mark.parametrize("sight", SIGHT)
def test_the_colours_of_methods_are_told_apart_by_every_reader(sight):
    """The first six. Colours of equal lightness, such as those of traffic lights, would be one without green cones."""
    seen = [_as_lab(SIGHT[sight] @ _linear(colour)) for colour in pictures.COLOURS[:6]]
    apart = min(np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i])
    assert apart > 15
    traffic = [_as_lab(SIGHT["no green cones"] @ _linear(colour)) for colour in ("#c0392b", "#6b7a1e")]
    assert np.linalg.norm(traffic[0] - traffic[1]) < 15  # what the rule refuses


def _linear(colour):
    """sRGB, undone."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _as_lab(linear):
    """CIE L*a*b* with the white of D65, in which a distance of 2 is just seen."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.clip(to_xyz @ linear / (0.9505, 1.0, 1.089), 1e-6, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize(("seeds", "low", "high"), [(3, 1.0, 3.0), (30, 1.85, 2.15)])
def test_shades_of_few_seeds_are_their_range_and_of_many_the_standard_error(seeds, low, high):
    """The best and the worst of thirty seeds cover the whole picture, and hide the other methods."""
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    rows, none = np.repeat(np.resize([1.0, 2.0, 3.0], seeds)[:, None], 4, axis=1), np.zeros(seeds)
    result = MethodResult(
        whole=rows.mean(1),
        closing=rows[:, -1],
        diverged=none.astype(int),
        lost=none.astype(bool),
        right=none,
        closing_right=none,
        name="a",
        description="a",
        rate_factor=1.0,
        characters=40,
        seconds=1.0,
        compile_seconds=1.0,
        ends=np.arange(10, 50, 10),
        windows=rows,
        means=rows,
    )
    _draw_result(axes, result, "black", "-")
    shade = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (shade.min(), shade.max()) == pytest.approx((low, high), abs=0.01)
