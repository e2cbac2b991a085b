"""What an audit comes to, in the forms that other programs read.

Each form is a function from a `Result` to pieces of text; none holds all inputs at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trajfile.audit.formats.annotations import github
from trajfile.audit.formats.junit import junit
from trajfile.audit.formats.markdown import markdown
from trajfile.audit.formats.records import as_csv, as_json, as_jsonl
from trajfile.audit.formats.result import Result
from trajfile.audit.formats.sarif import sarif

#: Every form by its name, ``table`` excepted, which is for people.
FORMATS: dict[str, Callable[[Result], Iterator[str]]] = {
    "json": as_json,
    "jsonl": as_jsonl,
    "csv": as_csv,
    "markdown": markdown,
    "junit": junit,
    "sarif": sarif,
    "github": github,
}

__all__ = ["FORMATS", "Result"]
