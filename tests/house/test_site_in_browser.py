"""The built site in a browser, on a desk and on a phone. Skips without `make docs` or without Chromium."""

import pytest

from docs.site.browser import Browser, find_chromium
from docs.site.stage import ROOT

SITE = ROOT / "build" / "site"
CHROMIUM = find_chromium()

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="`make docs` has not built the site"),
]

PAGES = ["index.html", "choose.html", "guides/own-cell.html", "papers/nobacktrack.html", "api/estimators.html"]


@pytest.fixture(scope="module")
def browser():
    with Browser(CHROMIUM) as browser:
        yield browser


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_and_has_no_error(browser, page, width):
    seen = browser.open(SITE / page, width=width)
    assert seen.errors == []
    assert seen.wide <= 0, f"{page} scrolls sideways at {width} pixels"
    assert all(height > 5 for height in seen.equations)
    if page.startswith(("papers/", "api/")):
        assert seen.equations


@pytest.mark.parametrize("width", [1280, 390])
def test_the_search_finds_a_name(browser, width):
    found = "document.querySelector('#search-results li')"
    seen = browser.open(SITE / "search.html", width=width, query="?q=NoBackTrack", until=found)
    assert seen.errors == []
    assert seen.wide <= 0
    assert "NoBackTrack" in seen.text.split("Search")[-1]
