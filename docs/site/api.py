"""The pages of the reference, one for each namespace, generated from the signatures and docstrings."""

import importlib
import inspect
import re
import textwrap
from pathlib import Path

import onward

from .equations import with_equations
from .names import LEARNER, PublicName, public_names

FENCE = "`" * 8


def write_api(folder: Path) -> None:
    """Writes `index.md` and a page for each namespace."""
    folder.mkdir(parents=True, exist_ok=True)
    names = public_names()
    pages = [LEARNER, *onward.NAMESPACES]
    for page in pages:
        (folder / f"{page}.md").write_text(_page(page, [name for name in names if name.page == page]))
    (folder / "index.md").write_text(_index(pages, names))


def _index(pages: list[str], names: list[PublicName]) -> str:
    lines = [
        "# API",
        "",
        "Every public name. The names at the top of `onward` are what every user types; all others are in a namespace.",
        "",
    ]
    for page in pages:
        listed = [name for name in names if name.page == page]
        lines += [f"## [{_title(page)}]({page}.md)", "", _summary(_document(page)), ""]
        lines += [f"- [`{name.full}`](#{name.full}): {_summary(_doc(name.value))}" for name in listed]
        lines.append("")
    return "\n".join([*lines, "```{toctree}", ":hidden:", "", *pages, "```", ""])


def _page(page: str, names: list[PublicName]) -> str:
    parts = [f"# {_title(page)}", _markdown(_document(page))]
    if page == "streams":
        parts.append("It serves the command `onward stream`; see [its manual](../streams.md).")
    return "\n\n".join([*parts, *(_entry(name) for name in names), ""])


def _title(page: str) -> str:
    return "Learner, Model and audits" if page == LEARNER else f"onward.{page}"


def _document(page: str) -> str:
    if page == LEARNER:
        return "What turns a stream of examples into updates, the model that it trains, and how a gradient is audited."
    return inspect.getdoc(importlib.import_module(f"onward.{page}")) or ""


def _entry(name: PublicName) -> str:
    value = name.value
    if inspect.isclass(value):
        parts = [_markdown(_doc(value)), *(_method(*member) for member in _members(value))]
        return _directive("class", name.name, _signature(value), name.module, parts)
    if callable(value):
        return _directive("function", name.name, _signature(value), name.module, [_markdown(_doc(value))])
    return _directive("data", name.name, "", name.module, [f"`{value!r}`"])


def _method(name: str, value: object, kind: str) -> str:
    signature = "" if kind == "property" else _signature(value, skip_first=kind != "staticmethod")
    directive = "property" if kind == "property" else "method"
    option = "classmethod" if kind == "classmethod" else ""
    return _directive(directive, name, signature, None, [_markdown(_doc(value))], option)


def _directive(kind: str, name: str, signature: str, module: str | None, parts: list[str], option: str = "") -> str:
    fence = FENCE if module else FENCE[:-1]
    options = [f":module: {module}"] if module else []
    options += [f":{option}:"] if option else []
    return "\n".join([f"{fence}{{py:{kind}}} {name}{signature}", *options, "", "\n\n".join(parts), fence])


def _members(cls: type):
    """The public methods and properties with a docstring of their own, as name, function and kind."""
    for name, raw in vars(cls).items():
        if name.startswith("_"):
            continue
        kind = {classmethod: "classmethod", staticmethod: "staticmethod", property: "property"}.get(type(raw), "method")
        value = raw.fget if isinstance(raw, property) else getattr(raw, "__func__", raw)
        value = inspect.unwrap(getattr(value, "method", value))  # Equinox wraps methods
        if inspect.isfunction(value) and value.__doc__:
            yield name, value, kind


def _doc(value: object) -> str:
    return inspect.cleandoc(value.__doc__ or "")


def _summary(text: str) -> str:
    """The first sentence."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.:])\s", paragraph)[0]


def _signature(value: object, skip_first: bool = False) -> str:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return "(...)"
    parameters = list(signature.parameters.values())[skip_first:]
    plain = [p.replace(annotation=inspect.Parameter.empty, default=_default(p.default)) for p in parameters]
    return str(inspect.Signature(plain))


class _Shown(str):
    """Text that stands in a signature as it is."""

    def __repr__(self):
        return str(self)


def _default(value: object) -> object:
    if value is inspect.Parameter.empty or isinstance(value, int | float | str | bool | None):
        return value
    if callable(value):
        name = getattr(value, "__name__", "...")
        return _Shown("..." if name == "<lambda>" else name)
    return _Shown(re.sub(r" at 0x[0-9a-f]+", "", repr(value)))


def _markdown(text: str) -> str:
    """A docstring as Markdown: its examples and equations as blocks of their own kind."""
    lines, out, i = _river_sections(text).splitlines(), [], 0
    while i < len(lines):
        block = i
        if lines[i].startswith("    ") and (i == 0 or not lines[i - 1].strip()) and not _in_list(out):
            while i < len(lines) and (lines[i].startswith("    ") or not lines[i].strip()):
                i += 1
            out += _block(textwrap.dedent("\n".join(lines[block:i])).strip("\n"))
        elif lines[i].startswith(">>>"):
            while i < len(lines) and lines[i].strip():
                i += 1
            out += _block("\n".join(lines[block:i]))
        else:
            out.append(lines[i])
            i += 1
    return "\n".join(out)


def _river_sections(text: str) -> str:
    """The sections of River's docstrings, which underline their titles and indent what belongs to a parameter."""
    text = re.sub(r"^(\w+)\n-{3,}$", r"**\1:**\n", text, flags=re.M)
    return re.sub(r"^(\w[\w, ]*)\n((?:    .+\n?)+)", _definition, text, flags=re.M)


def _definition(match: re.Match) -> str:
    return f"- `{match[1]}`: {' '.join(match[2].split())}\n"


def _in_list(out: list[str]) -> bool:
    """Whether an indented line would continue an item of a list."""
    before = next((line for line in reversed(out) if line.strip()), "")
    return before.startswith(("- ", "* ", "  ")) and not before.startswith("    ")


def _block(text: str) -> list[str]:
    if text.lstrip().startswith(">>>"):
        return ["", "```pycon", re.sub(r" *# doctest: .*$", "", text, flags=re.M), "```", ""]
    return ["", *with_equations(text).splitlines(), ""]
