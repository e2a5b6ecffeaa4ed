"""Lays out the source of the site: what is written by hand, from wherever it stands in the repository."""

import os
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "build" / "site-source"

# Folders and files of the repository, and where they are on the site. The first that fits is taken.
PLACES = {
    "docs": "",
    "benchmarks/results": "benchmarks",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
KINDS = (".md", ".png", ".svg", ".css", ".json")
INCLUDE = re.compile(r"^(`{3,}\{literalinclude\}) (\S+)$", re.M)
LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")


def stage(folder: Path) -> None:
    """Copies the pages and their pictures into `folder`, with their links set to the new places."""
    for place in PLACES:
        start = ROOT / place
        for path in sorted(start.rglob("*")) if start.is_dir() else [start]:
            parts = path.relative_to(ROOT).parts
            if path.suffix not in KINDS or not path.is_file() or "parts" in parts or parts[:2] == ("docs", "site"):
                continue
            target = folder / site_path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".md":
                target.write_text(moved_links(path.read_text(), path) + _reports_below(path))
            else:
                shutil.copyfile(path, target)


def _reports_below(path: Path) -> str:
    """For a page of results, the table of contents of its reports, which need no line in the sidebar's menu."""
    if path.name != "README.md" or not any(path.parent.glob("*/report.md")):
        return ""
    return "\n```{toctree}\n:hidden:\n:glob:\n\n*/report\n```\n"


def site_path(path: Path) -> Path:
    """Where a file of the repository is on the site. Raises `ValueError` for one that is not."""
    relative = path.relative_to(ROOT).as_posix()
    for place, target in PLACES.items():
        if relative == place:
            return Path(target)
        if relative.startswith(f"{place}/"):
            return Path(target) / relative.removeprefix(f"{place}/")
    raise ValueError(f"{relative} is not on the site")


def moved_links(text: str, path: Path) -> str:
    """The text of a page with its links set to where their targets are on the site.

    What is not on the site, such as a file of the library, is named without a link.
    """
    here = site_path(path).parent

    def moved(match: re.Match) -> str:
        target, _, anchor = match[1].partition("#")
        if (
            not target
            or "://" in target
            or target.startswith(("api/", "../api/", "gallery/", "../gallery/", "mailto:"))
        ):
            return match[0]
        file = Path(os.path.normpath(path.parent / target))
        if not file.exists():
            return match[0]  # Sphinx reports it
        to = os.path.relpath(site_path(file), here)
        return f"]({to}{'#' + anchor if anchor else ''})"

    def included(match: re.Match) -> str:
        file = Path(os.path.normpath(path.parent / match[2]))
        return f"{match[1]} {os.path.relpath(file, BUILT / here)}"

    return INCLUDE.sub(included, LINK.sub(moved, text))
