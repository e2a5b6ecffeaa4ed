"""The pages of the documentation: links, anchors, pictures, commands, and that no public name is left out."""

import argparse
import ast
import inspect
import re
import runpy
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest

import onward
from docs.site.api import write_api
from docs.site.equations import with_equations
from docs.site.names import public_names
from docs.site.stage import ROOT, moved_links
from onward.cli.app import COMMANDS, options_of
from onward.cli.options import parse_options

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/results/*.md", "onward/data/*.md")
    for path in ROOT.glob(pattern)
    if "parts" not in path.relative_to(ROOT).parts
)
FENCED = re.compile(r"^(`{3,}|:{3,}).*?^\1`*$", re.M | re.S)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
GENERATED = ("docs/api/", "docs/gallery/")


@cache
def prose(path: Path) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "", FENCED.sub("", path.read_text()))


@cache
def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.*)$", FENCED.sub("", path.read_text()), flags=re.M)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "") for title in titles)
    found = {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in plain}
    return found | set(re.findall(r"^\(([\w-]+)\)=$", path.read_text(), flags=re.M))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere_and_pictures_have_words(path):
    for picture, words, target in LINK.findall(prose(path)):
        assert not picture or len(words.split()) > 2, f"{target} needs a text that says what it shows"
        file, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        to = (path.parent / file).resolve() if file else path
        if any(str(to).startswith(str(ROOT / folder)) for folder in GENERATED):
            continue  # the build of the site checks these
        assert to.exists(), f"the link to {target} leads nowhere"
        if anchor and to.suffix == ".md":
            assert anchor in anchors(to), f"{target} has no such heading; there are {sorted(anchors(to))}"


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/guides/devices.md"])
def test_platforms_that_nobody_ran_are_marked(page):
    """Each paragraph or row that tells how to install for a GPU or macOS says whether we ran it."""
    lines = [
        part for part in re.split(r"\n\n|\n(?=\|)", (ROOT / page).read_text()) if re.search(r"jax\[cuda|macOS", part)
    ]
    assert lines
    assert [line for line in lines if "not run by us" not in line and "Neither was run by us" not in line] == []


def test_links_move_with_the_pages():
    results = ROOT / "docs/results/rbp/README.md"
    there = moved_links("[a](../../../benchmarks/results/live.md#x) [b](hopfield/report.md)", results)
    assert there == "[a](../../benchmarks/live.md#x) [b](hopfield/report.md)"
    assert moved_links("[c](docs/guides/index.md)", ROOT / "CHANGELOG.md") == "[c](guides/index.md)"


def test_the_reference_has_every_public_name(tmp_path):
    write_api(tmp_path)
    written = "\n".join(path.read_text() for path in tmp_path.glob("*.md"))
    described = {id(name.value) for name in public_names()}
    for place in ("", *onward.NAMESPACES):
        module = getattr(onward, place) if place else onward
        for name in {*dir(module), *(vars(module) if place else ())}:
            value = getattr(module, name)
            defined = getattr(value, "__module__", "") or ""
            if name.startswith("_") or inspect.ismodule(value) or not defined.startswith("onward."):
                continue
            if not defined.startswith("onward.support"):
                assert id(value) in described, f"onward.{place}.{name} is not in the reference"
    for name in public_names():
        assert re.search(rf"\{{py:\w+\}} {name.name}\b.*\n:module: {name.module}\n", written), name.full
        assert f"[`{name.full}`](#{name.full})" in written


def test_equations_of_docstrings_become_mathml_that_says_the_same():
    shown = with_equations("h'_i = Σ_(k=0..K) W h² + b,    ρ̄ ← sqrt(‖w‖/‖v‖)")
    assert "<msub><mo" not in shown
    assert "<msup><mi>h</mi><mtext>2</mtext></msup>" in shown
    assert '<mspace width="2em"/>' in shown
    text = re.sub(r"<[^>]*>|```.*|\s", "", shown)
    assert text == "h′i=Σ(k=0..K)Wh2+b,ρ̄←sqrt(‖w‖/‖v‖)"
    assert with_equations("$ onward train").startswith("```text")


def commands() -> list[tuple[str, str]]:
    """Every `onward ...` that a page tells its reader to type, with the page."""
    found = []
    for path in PAGES:
        if path.parent.name in ("results", "data") or "results" in path.parts or path.name == "CHANGELOG.md":
            continue
        blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", path.read_text(), flags=re.M | re.S)
        blocks += re.findall(r"(?:^ {4}.*\n)+", FENCED.sub("", path.read_text()), flags=re.M)
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#.*$", "", line.strip().removeprefix("$ ")).split(" | ")[-1]
            if command.startswith("onward ") and "..." not in command:
                found.append((str(path.relative_to(ROOT)), command))
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_have_the_options_that_pages_give_them(page, command):
    _, name, *rest = shlex.split(command.partition(" > ")[0])
    assert name in COMMANDS
    if "--help" not in rest:
        parse_options(options_of(name), rest, program=f"onward {name}")


# What a page of results leaves to its reader, and something that stands for it.
CHOICES = {"FILE": "text.txt", "N": "1", "R,R": "0.1,0.1", "C": "lstm", "T": "anbn"}


def recorded_commands() -> list[tuple[str, str]]:
    """Every command that a page of results says its numbers come from, or can be had by, with the page. A pattern, such
    as `onward reproduce fptt/NAME`, is none.
    """
    found = {}
    for path in PAGES:
        if "results" in path.parts:
            text = FENCED.sub("", path.read_text())
            commands = re.findall(r"`((?:onward|python -m) \w[^`]*)`", text)
            for command in commands + re.findall(r"^- command: (\w.*)$", text, re.M):
                if not re.search(r"NAME|figN", command):
                    said = re.sub(r"(?<![\w./-])(?:R,R|[A-Z]+)(?![\w./-])", lambda m: CHOICES[m[0]], command)
                    found.setdefault(" ".join(said.split()), str(path.relative_to(ROOT)))
    return [(page, command) for command, page in found.items()]


class Accepted(Exception):
    """Arguments were accepted."""


@pytest.mark.parametrize(("page", "command"), recorded_commands())
def test_recorded_commands_are_those_of_today(page, command, monkeypatch):
    """Names and options are accepted, before anything is computed."""
    first, name, *rest = shlex.split(command)
    if first == "onward":
        parse_options(options_of(name), rest, program=f"onward {name}")
        return
    module, *rest = rest
    parse = argparse.ArgumentParser.parse_args

    def accept(parser, *arguments):
        parse(parser, *arguments)
        raise Accepted

    monkeypatch.setattr("sys.argv", [module, *rest])
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", accept)
    with pytest.raises(Accepted):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def test_every_report_names_its_command():
    reports = [path for path in PAGES if path.name == "report.md"]
    assert reports
    assert [path for path in reports if "\n- command: `onward reproduce " not in path.read_text()] == []


INCLUDES = [
    (path, *found)
    for path in PAGES
    for found in re.findall(r"^```\{literalinclude\} (\S+)\n((?::.*\n)*)", path.read_text(), flags=re.M)
]


@pytest.mark.parametrize(("path", "file", "options"), INCLUDES, ids=lambda value: Path(value).stem[:40])
def test_code_that_a_page_shows_is_there(path, file, options):
    source = (path.parent / file).resolve().read_text()
    given = dict(re.findall(r"^:([\w-]+): (.*)$", options, flags=re.M))
    for text in (given.get("start-at"), given.get("end-at")):
        assert text is None or text in source
    names = given.get("pyobject", "").split(".")
    body = ast.parse(source).body
    for name in filter(None, names):
        body = next(node for node in body if getattr(node, "name", None) == name).body


# Pages whose measured numbers are links to where they were recorded.
MEASURED = [ROOT / "README.md", ROOT / "docs/choose.md", *sorted((ROOT / "docs/papers").glob("*.md"))]
NOT_MEASURED = r"\(\d+\.\d+\)|[Ss]ection \d[\d.]*|Python (?:≥ )?\d\.\d+|error of 0\.01|Apache-2\.0"
COMMAND = re.compile(r"command: .*\b(?:onward|python -m)\b|^- command", re.M)


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_a_measured_number_stands_in_the_recorded_result_that_it_links_to(path):
    for _, words, target in LINK.findall(FENCED.sub("", path.read_text())):
        numbers = re.findall(r"\d[\d,]*(?:\.\d+)?", words)
        record = (path.parent / target.partition("#")[0]).resolve()
        if not numbers or "results" not in record.parts or record.suffix != ".md":
            continue
        recorded = record.read_text()
        assert COMMAND.search(recorded), f"{target} does not name the command that made it"
        for number in numbers:
            plain = rf"(?<![\d.]){re.escape(number.replace(',', ''))}(?![\d]|\.\d)"
            assert re.search(plain, recorded.replace(",", "")), f"{number} is not in {target}"


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_no_measured_number_stands_without_its_record(path):
    """Numbers with a decimal point are measured, except for settings, which stand in code, and equations."""
    text = re.sub(r"\$\$?.*?\$\$?", "", prose(path), flags=re.S)
    text = re.sub(
        r"\(\d+\.\d+\)|[Ss]ection \d[\d.]*|Python (?:≥ )?\d\.\d+|T = [\d.]+|error of 0\.01|Apache-2\.0",
        "",
        LINK.sub("", text),
    )
    assert not re.findall(r"\d+\.\d+", text)
