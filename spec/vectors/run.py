#!/usr/bin/env python3
"""Hold a reader of trajectories to the conformance vectors; README.md says how.

    python run.py [--validator] [--feature NAME ...] [--only TEXT] [--limit SECONDS]
                  -- PROGRAM [ARGUMENT ...]

The program reads paths from standard input, one a line, and answers each with one line of JSON on
standard output. Python's standard library is all this needs.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ARCHIVE = ".zarr.tar.gz"


class Program:
    """The program under test; started again where it has died.

    Args:
        command: How to start it.
        limit: Seconds that an answer may take.
    """

    def __init__(self, command: list[str], limit: float):
        self._command = command
        self._limit = limit
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()

    def ask(self, path: Path) -> Any:
        """Its answer about a path.

        Args:
            path: A file or folder.

        Returns:
            What it answered, or a text that says what went wrong.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{path}\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=self._limit)
        except queue.Empty:
            self.stop()
            return f"no answer within {self._limit:g} s"
        except OSError:
            line = ""
        if not line:
            self.stop()
            return "the program ended without an answer"
        try:
            return json.loads(line)
        except ValueError:
            return f"the answer is not JSON: {line[:200]!r}"

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process = None

    def _start(self) -> None:
        self.stop()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._lines = queue.Queue()
        threading.Thread(
            target=_pump, args=(self._process.stdout, self._lines), daemon=True
        ).start()


def _pump(stream: Any, lines: queue.Queue[str]) -> None:
    try:
        for line in stream:
            lines.put(line)
    except ValueError:  # closed meanwhile
        pass
    lines.put("")


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a Zarr vector; it may hold links and pipes, which a library would rather not make.

    Args:
        archive: The archive; its members lie below one folder.
        folder: Where to.

    Returns:
        That one folder.
    """
    with tarfile.open(archive, "r:gz") as packed:
        members = packed.getmembers()
        for member in members:
            target = folder / member.name
            if member.isdir():
                target.mkdir()
            elif member.issym():
                target.symlink_to(member.linkname)
            elif member.isfifo():
                os.mkfifo(target)
            else:
                content = packed.extractfile(member)
                assert content is not None
                target.write_bytes(content.read())
    return folder / members[0].name


def verdict(
    expected: dict[str, Any], found: Any, *, validator: bool, features: Sequence[str] = ()
) -> str | None:
    """Compare an answer with what is expected.

    Args:
        expected: What the vector's JSON says.
        found: The answer, or a text where there is none.
        validator: Whether every rule must be found and named.
        features: Names in ``requires`` that the program knows.

    Returns:
        What is wrong; None if nothing is.
    """
    if isinstance(found, str):
        return found
    if not isinstance(found, dict) or len({"content", "refused"} & set(found)) != 1:
        return "the answer has neither 'content' nor 'refused', or both"
    if not isinstance(found.get("refused", []), list):
        return "'refused' is not a list of rules"
    unknown = set(expected.get("requires", ())) - set(features)
    if unknown:
        expected = {"rule": "CORE-005", "detected_by": "every reader"}
    if "content" in expected:
        if "refused" in found:
            return f"refused ({_reason(found)}), but it is valid"
        return difference(expected["content"], found["content"])
    rule = expected["rule"]
    if "refused" not in found:
        must = validator or expected["detected_by"] == "every reader"
        return f"read, but it breaks {rule}" if must else None
    if validator and rule not in found["refused"]:
        return f"refused ({_reason(found)}), but it breaks {rule}"
    return None


def difference(expected: Any, found: Any, place: str = "content") -> str | None:
    """The first difference between two JSON values, in words.

    Args:
        expected: What is right.
        found: What was answered; further keys of objects do no harm.
        place: Where this is.

    Returns:
        A sentence, or None if they agree.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected:
            if key not in found:
                return f"{place} lacks {key!r}"
            wrong = difference(expected[key], found[key], f"{place}.{key}")
            if wrong:
                return wrong
        return None
    if isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            return f"{place} has {len(found)} entries, expected {len(expected)}"
        for number, pair in enumerate(zip(expected, found, strict=True)):
            wrong = difference(*pair, f"{place}[{number}]")
            if wrong:
                return wrong
        return None
    same = expected == found and isinstance(expected, bool) == isinstance(found, bool)
    return None if same else f"{place} is {found!r:.200}, expected {expected!r:.200}"


def vectors(only: str) -> list[tuple[Path, Path]]:
    """Every vector and its JSON, those alone whose name holds a text."""
    found = []
    for answer in sorted(FOLDER.glob("*/*.json")):
        for suffix in (".h5", ARCHIVE):
            vector = answer.with_name(answer.name.removesuffix(".json") + suffix)
            if vector.exists() and only in f"{vector.parent.name}/{vector.name}":
                found.append((vector, answer))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Ask the program about every vector; 0 if all answers are right, else 1."""
    parser = argparse.ArgumentParser(description="Hold a reader to the conformance vectors.")
    parser.add_argument("--validator", action="store_true", help="every rule found and named")
    parser.add_argument(
        "--feature", action="append", default=[], metavar="NAME", help="a feature that it knows"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="vectors whose name holds it")
    parser.add_argument("--limit", type=float, default=10.0, metavar="SECONDS", help="an answer")
    parser.add_argument("program", nargs="+", help="the adapter and its arguments, after --")
    options = parser.parse_args(arguments)
    program = Program(options.program, options.limit)
    wrong, chosen = 0, vectors(options.only)
    try:
        for vector, answer in chosen:
            expected = json.loads(answer.read_text(encoding="utf-8"))
            with tempfile.TemporaryDirectory() as scratch:
                packed = vector.name.endswith(ARCHIVE)
                path = unpack(vector, Path(scratch)) if packed else vector
                problem = verdict(
                    expected,
                    program.ask(path),
                    validator=options.validator,
                    features=options.feature,
                )
            if problem:
                wrong += 1
                print(f"FAIL {vector.parent.name}/{vector.name}: {problem}")
    finally:
        program.stop()
    print(f"{len(chosen) - wrong} of {len(chosen)} vectors passed")
    return 1 if wrong or not chosen else 0


def _reason(found: dict[str, Any]) -> str:
    named = ", ".join(found["refused"]) or "no rule named"
    return named + (f": {found['because']}" if found.get("because") else "")


if __name__ == "__main__":
    sys.exit(main())
