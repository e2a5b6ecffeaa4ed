"""The gallery: runs the scripts in `examples/` cell by cell, and writes a page for each with output and pictures."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from .stage import ROOT

EXAMPLES = ROOT / "examples"
LIMIT = 600  # seconds for one example, on a busy machine; alone each takes at most 60


class Cell(NamedTuple):
    """A cell of a script in percent format: `kind` is "markdown" or "code"; a page shows the line it begins at."""

    kind: str
    source: str
    line: int


def cells_of(script: Path) -> list[Cell]:
    """The cells of a script. Text before the first `# %%` is left out."""
    cells, lines = [], script.read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("# %%")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        body = lines[start + 1 : end]
        if lines[start].startswith("# %% [markdown]"):
            cells.append(Cell("markdown", "\n".join(re.sub(r"^# ?", "", line) for line in body).strip(), start + 1))
        elif "".join(body).strip():
            skipped = next(i for i, line in enumerate(body) if line.strip())
            cells.append(Cell("code", "\n".join(body[skipped:]).rstrip(), start + 1 + skipped))
    return cells


def title_of(script: Path) -> str:
    """The title of an example, from its first cell. Raises `ValueError` if there is none."""
    first = cells_of(script)[0]
    if first.kind != "markdown" or not first.source.startswith("# "):
        raise ValueError(f"{script.name} must begin with a markdown cell whose first line is its title.")
    return first.source.splitlines()[0].removeprefix("# ")


def write_gallery(folder: Path) -> list[str]:
    """Runs all examples, two at a time, and writes their pages. Returns what went wrong, a sentence for each."""
    name_gallery(folder)
    with ThreadPoolExecutor(2) as pool:
        problems = [*pool.map(lambda script: _write(script, folder), scripts())]
    return [problem for problem in problems if problem]


def name_gallery(folder: Path) -> None:
    """Writes the list of examples, and a page for each with its title alone."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Gallery", "", "Each example is a script in `examples/`, run anew for this page, in seconds.", ""]
    for script in scripts():
        about = cells_of(script)[0].source.split("\n\n")[1].replace("\n", " ")
        lines += [f"- [{title_of(script)}]({script.stem}.md). {about}"]
        (folder / f"{script.stem}.md").write_text(f"# {title_of(script)}\n\nLeft out of this build.\n")
    pages = [script.stem for script in scripts()]
    (folder / "index.md").write_text("\n".join([*lines, "", "```{toctree}", ":hidden:", "", *pages, "```", ""]))


def scripts() -> list[Path]:
    """The examples, by name."""
    return sorted(EXAMPLES.glob("*.py"))


def _write(script: Path, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    command = [sys.executable, "-m", "docs.site.example", str(script), str(folder)]
    try:
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return f"examples/{script.name} took more than {LIMIT} seconds."
    if run.returncode:
        return f"examples/{script.name} failed:\n{run.stdout[-2000:]}{run.stderr[-2000:]}"
    result = json.loads(run.stdout.splitlines()[-1])
    parts = []
    for cell, (output, pictures) in zip(cells_of(script), result["shown"], strict=True):
        parts.append(cell.source if cell.kind == "markdown" else f"```python\n{cell.source}\n```")
        if output.strip():
            parts.append(f"```text\n{output.rstrip()}\n```")
        parts += [f"![{words}]({name})" for name, words in pictures]
    seconds = f"{result['seconds']:.0f} seconds of one processor"
    parts.append(f"*`examples/{script.name}`, run for this page in {seconds}, compilation included.*")
    (folder / f"{script.stem}.md").write_text("\n\n".join(parts) + "\n")
    return ""
