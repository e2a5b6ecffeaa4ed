"""Every Python block of the guides runs as a reader would paste it, the blocks of a page in a row.

Those of the README are run by `test_readme.py`.
"""

import re
import warnings

import pytest

from docs.site.stage import ROOT

PAGES = [
    path
    for path in [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs").glob("guides/*.md"))]
    if re.search(r"^```python$", path.read_text(), flags=re.M)
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_blocks_of_a_page_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, names = path.read_text(), {"__name__": "a_page"}
    for match in re.finditer(r"^```python\n(.*?)^```", text, flags=re.M | re.S):
        line = text[: match.start(1)].count("\n")
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            exec(compile("\n" * line + match[1], str(path), "exec"), names)
