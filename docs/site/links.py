"""Names of the library in running text, such as `onward.RTRL`, become links to the reference."""

import re

from docutils import nodes
from sphinx.addnodes import desc_signature
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain

from .names import public_names

NAME = re.compile(r"^(onward(?:\.\w+)+)(\(.*\))?$")
TOP = re.compile(r"^(@?\w+)(\(.*\))?$")


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("doctree-resolved", _link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _link_names(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    domain = app.env.domains["py"]
    assert isinstance(domain, PythonDomain)
    aliases = _aliases()
    for literal in list(doctree.findall(nodes.literal)):
        if isinstance(literal.parent, nodes.reference | nodes.title | desc_signature):
            continue
        name = _full_name(literal.astext(), aliases)
        if name in domain.objects:
            found = domain.objects[name]
            uri = app.builder.get_relative_uri(docname, found.docname) + f"#{found.node_id}"
            link = nodes.reference("", "", literal.deepcopy(), internal=True, refuri=uri)
            literal.replace_self(link)


def _full_name(text: str, aliases: dict[str, str]) -> str:
    if match := NAME.match(text):
        return aliases.get(match[1], match[1])
    if (match := TOP.match(text)) and len(match[1]) > 3:
        return aliases.get(match[1], "")
    return ""


_known: dict[str, str] = {}


def _aliases() -> dict[str, str]:
    """Other spellings, each with the name in the reference; classes also without `onward.`"""
    if not _known:
        for name in public_names():
            _known.update(dict.fromkeys(name.aliases, name.full))
            if name.module == "onward" and isinstance(name.value, type):
                _known[name.name] = name.full
    return _known
