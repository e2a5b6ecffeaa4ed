"""What is wrong with the built site: broken links and anchors, pictures without words, and anything from elsewhere."""

import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links, anchors and pictures of one HTML page."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.without_words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Notes what the tag links to, loads, or is called."""
        given = dict(attrs)
        if name := given.get("id"):
            self.anchors.add(name)
        if tag == "a" and (to := given.get("href")):
            self.links.append(to)
        if tag in ("img", "script") and (source := given.get("src")):
            self.loaded.append(source)
        if tag == "link" and given.get("rel") == "stylesheet":
            self.loaded.append(given.get("href") or "")
        if tag == "img" and not (given.get("alt") or "").strip():
            self.without_words.append(given.get("src") or "a picture")


def problems(site: Path) -> list[str]:
    """A sentence for each problem."""
    return [problem for page in sorted(site.rglob("*.html")) for problem in _of_page(page, site)]


def mend_source_links(site: Path) -> None:
    """Sets the links from the pages of source code back to the reference.

    Sphinx takes all objects of a source file for objects of one public module, but `onward.LSTMCell` and
    `onward.cells.LSTMState` are defined in the same file.
    """
    for path in (site / "_modules").rglob("*.html"):

        def mended(match: re.Match, path: Path = path) -> str:
            anchors = _read((path.parent / match[1]).resolve()).anchors
            name = match[2].removeprefix("onward.")
            fits = [anchor for anchor in anchors if anchor == match[2] or re.fullmatch(rf"onward\.\w+\.{name}", anchor)]
            return f'href="{match[1]}#{min(fits, key=len, default=match[2])}"'

        path.write_text(re.sub(r'href="([^"]*/api/\w+\.html)#(onward\.[\w.]+)"', mended, path.read_text()))


def _of_page(path: Path, site: Path) -> Iterator[str]:
    page, here = _read(path), path.relative_to(site)
    for source in page.without_words:
        yield f"{here}: {source} has no alternative text"
    for source in page.loaded:
        parts = urlsplit(source)
        if parts.scheme not in ("", "data") or parts.netloc:
            yield f"{here}: {source} is loaded from elsewhere"
        elif not parts.scheme and not (path.parent / unquote(parts.path)).exists():
            yield f"{here}: {source} does not exist"
    for link in page.links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
        if not target.exists():
            yield f"{here}: the link {link} leads nowhere"
        elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in _read(target).anchors:
            yield f"{here}: the link {link} has no such anchor"


@cache
def _read(path: Path) -> Page:
    return Page(path.read_text())
