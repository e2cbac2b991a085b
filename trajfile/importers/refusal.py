"""How an importer refuses: one error with the file, what is wrong, the remedy and the rule."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from trajfile.errors import Damaged, NotATrajectory, Unsafe

#: What may help too, where code that is not run stands between a file and its tensors.
TRUST = "or, if you made it yourself, pass --trust (trust=True), which runs the code that it names"


def half_written(path: Path, what: str, cause: BaseException | None = None) -> NoReturn:
    """Refuse a checkpoint that is not whole, as a kill or a full disk leaves it."""
    raise Damaged(
        f"{path} is not whole: {what}; wait if it is being written, otherwise delete it or "
        "restore it from a copy",
        path=path,
        rule="CKPT-004",
    ) from cause


def leads_out(path: Path, what: str) -> NoReturn:
    """Refuse a link or index that names a file elsewhere."""
    raise Unsafe(
        f"{path} {what}, which a safe reader does not follow: keep all parts of a checkpoint in "
        "its folder, as regular files",
        path=path,
        rule="CKPT-007",
    )


def not_regular(path: Path) -> NoReturn:
    """Refuse a pipe, a device or a socket."""
    raise Unsafe(
        f"{path} is not a regular file, which a safe reader does not open: remove it",
        path=path,
        rule="CKPT-008",
    )


def too_large(path: Path, what: str) -> NoReturn:
    """Refuse a table or header beyond any honest size."""
    raise Unsafe(
        f"{path} {what}, more than any checkpoint needs: it was not written by an honest program",
        path=path,
        rule="CKPT-009",
    )


def unknown_layout(path: Path, what: str, remedy: str) -> NoReturn:
    """Refuse a file of the right family that this program does not read."""
    raise NotATrajectory(f"{path} {what}; {remedy}", path=path, rule="CKPT-010")


def differs(path: Path, what: str, remedy: str) -> NoReturn:
    """Refuse a checkpoint whose tensors are not those of the others."""
    raise Damaged(f"{path} {what}; {remedy}", path=path, rule="CKPT-005")
