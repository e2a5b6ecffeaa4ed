"""The gallery: how scripts are run and shown, and that every example is fit for it. `make docs` runs all of them."""

import ast

import pytest

from docs.site.example import run
from docs.site.gallery import cells_of, name_gallery, scripts, title_of

SCRIPT = """# %% [markdown]
# # A title
#
# What it is about, in two lines
# of text.

# %%
x = 2
print("x is", x)

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(num="a line that goes up")
axes.plot([x, x + 1])
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "one.py"
    path.write_text(SCRIPT)
    return path


def test_a_script_is_run_cell_by_cell(script, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert [cell.kind for cell in cells_of(script)] == ["markdown", "code", "code"]
    assert cells_of(script)[0].source == "# A title\n\nWhat it is about, in two lines\nof text."
    text, printed, drawn = run(script, tmp_path)
    assert text == ("", [])
    assert printed == ("x is 2\n", [])
    assert drawn == ("", [("one-2-0.png", "a line that goes up")])
    assert (tmp_path / "one-2-0.png").stat().st_size > 1000


def test_an_error_names_its_line(script, tmp_path):
    script.write_text(SCRIPT.replace('print("x is", x)', "1 / 0"))
    with pytest.raises(ZeroDivisionError) as caught:
        run(script, tmp_path)
    assert caught.traceback[-1].lineno + 1 == script.read_text().splitlines().index("1 / 0") + 1


def test_a_picture_without_a_description_is_refused(script, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    script.write_text(SCRIPT.replace('num="a line that goes up"', ""))
    with pytest.raises(ValueError, match="give the figure a description"):
        run(script, tmp_path)


@pytest.mark.parametrize("path", scripts(), ids=lambda path: path.stem)
def test_an_example_has_a_title_a_text_and_described_pictures(path):
    assert 2 <= len(title_of(path).split()) <= 12
    assert len(cells_of(path)[0].source.split("\n\n")) > 1
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    figures = [call for call in calls if ast.unparse(call.func) == "plt.subplots"]
    assert all("num" in [keyword.arg for keyword in figure.keywords] for figure in figures)


def test_the_list_of_examples_names_each(tmp_path):
    name_gallery(tmp_path)
    listed = (tmp_path / "index.md").read_text()
    assert all(f"[{title_of(path)}]({path.stem}.md)" in listed for path in scripts())
    assert len(scripts()) >= 14
