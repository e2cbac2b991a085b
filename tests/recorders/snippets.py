"""The examples of the README and of spec/recording.md, each run where its framework is tested."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def snippets() -> dict[str, str]:
    """By the first word of the comment that they begin with."""
    texts = (ROOT / "README.md").read_text() + (ROOT / "spec/recording.md").read_text()
    found = re.findall(r"^```python\n(# .*?)^```", texts, re.M | re.S)
    return {re.match(r"# ([\w ]+)", code).group(1): code for code in found}


SNIPPETS = snippets()


def run_snippet(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Run the one of a name, with what it takes for granted."""
    exec(compile(SNIPPETS[name], name, "exec"), given)
    return given
