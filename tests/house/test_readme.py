"""The README's Python works when pasted."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_ten_lines_work_when_pasted(capsys):
    (block,) = _blocks("onward.RTRL")
    assert block.count(" * 500") == 1
    before, after = _numbers(block.replace(" * 500", " * 100"), capsys)  # less to read
    assert after < 0.1 < before


def _blocks(name: str) -> list[str]:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 1, "a block that is not tested"
    return [block for block in blocks if name in block]


def _numbers(block: str, capsys) -> list[float]:
    exec(compile(block, "README.md", "exec"), {})
    return [float(number) for number in re.findall(r"\d+\.?\d*(?:e[-+]\d+)?", capsys.readouterr().out)]
