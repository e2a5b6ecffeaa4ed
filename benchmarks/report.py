"""Tables: as text in the terminal, and recorded under `benchmarks/results/` with every sample."""

import json
from dataclasses import dataclass, field
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Table:
    """A title, headings, rows of text, remarks, and the rows as numbers, `figures`, for the record."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    remarks: tuple[str, ...] = ()
    figures: list[dict] = field(default_factory=list)

    def __str__(self) -> str:
        """Markdown that also reads well as it is: numbers are set flush right."""
        lines = [tuple(self.headings), *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.headings))]

        def write(line):
            cells = [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
            return "| " + " | ".join(cells) + " |"

        rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
        table = [write(lines[0]), rule, *(write(line) for line in lines[1:])] if self.rows else []
        remarks = [f"- {remark}" for remark in self.remarks]
        return "\n".join([f"## {self.title}", "", *table, *([""] if table and remarks else []), *remarks, ""])


def header(machine: dict[str, str]) -> str:
    """The machine, one line a fact."""
    return "\n".join(["# onward: benchmarks", "", *(f"- {name}: {value}" for name, value in machine.items()), ""])


def record(name: str, machine: dict[str, str], tables: list[Table], folder: Path = RESULTS) -> tuple[Path, Path]:
    """Write `name.md`, what the terminal shows, and `name.json`, with every sample. Returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    text, numbers = folder / f"{name}.md", folder / f"{name}.json"
    text.write_text("\n".join([header(machine), *map(str, tables)]))
    content = {"machine": machine, "tables": [{"title": t.title, "figures": t.figures} for t in tables]}
    numbers.write_text(json.dumps(content, indent=1) + "\n")
    return text, numbers
