"""Equations of docstrings, written as plain text such as `v_k ← (∂f/∂h) v_k`, as MathML."""

import html
import re

SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹ᵀ⁻ⁿ", "0123456789T−n", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉ₜ", "0123456789t", strict=True))

# A name of more than one letter is a word. An accent belongs to the letter before it.
LETTER = rf"[^\W\d_{''.join(SUPERSCRIPTS)}{''.join(SUBSCRIPTS)}]"
ACCENTS = r"[\u0300-\u036f]*"
TOKEN = re.compile(
    rf"(?P<gap> {{2,}})|(?P<space> )|(?P<number>\d+(?:\.\d+)?)|(?P<word>{LETTER}{{2,}}{ACCENTS})"
    rf"|(?P<letter>{LETTER}{ACCENTS})|(?P<script>[_^])|(?P<other>.)"
)


def with_equations(text: str) -> str:
    """An indented block of a docstring as HTML, a line of MathML for each of its lines; code stays code."""
    if _is_code(text):
        return f"```text\n{text}\n```"
    rows = "".join(f"<div>{_mathml(line)}</div>" for line in text.splitlines() if line.strip())
    return f'```{{raw}} html\n<div class="equation">{rows}</div>\n```'


def _is_code(text: str) -> bool:
    """Whether this is a command, a program or a table."""
    return not re.search(r"[=←≈≤∂Σ∈→]", text) or bool(re.search(r"^\s*(\$|onward |import |def |[|#])", text, re.M))


def _mathml(line: str) -> str:
    atoms: list[str] = []
    tokens = [(match.lastgroup, match.group()) for match in TOKEN.finditer(line)]
    i = 0
    while i < len(tokens):
        kind, text = tokens[i]
        if kind == "script" and atoms and i + 1 < len(tokens):
            group, i = _group(tokens, i + 1)
            tag = "msub" if text == "_" else "msup"
            atoms.append(f"<{tag}>{atoms.pop()}{group}</{tag}>")
            continue
        if text in SUPERSCRIPTS and atoms:
            raised = text
            while i + 1 < len(tokens) and tokens[i + 1][1] in SUPERSCRIPTS:
                i += 1
                raised += tokens[i][1]
            power = "".join(SUPERSCRIPTS[each] for each in raised)
            atoms.append(f"<msup>{atoms.pop()}<mtext>{power}</mtext></msup>")
        elif text == "'" and atoms:
            atoms.append(f"<msup>{atoms.pop()}<mo>′</mo></msup>")
        elif text in SUBSCRIPTS and atoms:
            atoms.append(f"<msub>{atoms.pop()}<mn>{SUBSCRIPTS[text]}</mn></msub>")
        elif kind != "space" or (atoms and _wordy(tokens, i)):
            atoms.append(_atom(kind, text))
        i += 1
    return f"<math><mrow>{''.join(atoms)}</mrow></math>"


def _group(tokens, i: int) -> tuple[str, int]:
    """What stands after `_` or `^`: one token, or what is in braces or parentheses after it."""
    kind, text = tokens[i]
    closing = {"{": "}", "(": ")"}.get(text)
    if closing is None:
        return _atom(kind, text), i + 1
    inside, j = [], i + 1
    while j < len(tokens) and tokens[j][1] != closing:
        inside.append(_atom(*tokens[j]))
        j += 1
    edges = ("", "") if text == "{" else ("<mo>(</mo>", "<mo>)</mo>")
    return f"<mrow>{edges[0]}{''.join(inside)}{edges[1]}</mrow>", j + 1


def _wordy(tokens, i: int) -> bool:
    """Whether a space separates words, where it must stay visible."""
    beside = [tokens[j][0] for j in (i - 1, i + 1) if 0 <= j < len(tokens)]
    return "word" in beside


def _atom(kind: str, text: str) -> str:
    shown = html.escape(text)
    if kind == "gap":
        return '<mspace width="2em"/>'
    if kind == "space":
        return '<mspace width="0.3em"/>'
    if kind == "number":
        return f"<mn>{shown}</mn>"
    if kind == "letter":
        return f"<mi>{shown}</mi>"
    if kind == "word":
        return f"<mtext>{shown}</mtext>"
    return f'<mo stretchy="false">{shown}</mo>'
