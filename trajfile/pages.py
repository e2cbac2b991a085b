"""The pages of spec/metrics.md, one a metric, as the package carries them."""

from __future__ import annotations

import re
from pathlib import Path

_SECTION = re.compile(r"^## (\w+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def metric_pages() -> dict[str, str]:
    """What spec/metrics.md says of each metric.

    Returns:
        Markdown by metric id, without the heading; empty if the text was not installed.
    """
    package = Path(__file__).parent
    # In a wheel spec/ travels as trajfile/schemas; in a checkout it lies beside the package.
    for folder in (package / "schemas", package.parent / "spec"):
        path = folder / "metrics.md"
        if path.is_file():
            return {name: body.strip() for name, body in _SECTION.findall(path.read_text("utf-8"))}
    return {}
