"""The README's Python works when pasted."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_ten_lines_work_when_pasted(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert block.count(" * 500") == 1
    exec(compile(block.replace(" * 500", " * 100"), "README.md", "exec"), {})  # less to read
    before, after = (float(number) for number in re.findall(r"\d+\.?\d*(?:e[-+]\d+)?", capsys.readouterr().out))
    assert after < 0.1 < before
