"""What is worth knowing of a folder of checkpoints that can be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trajfile.containers.base import Container
from trajfile.report import Finding
from trajfile.rules import finding

_NAMED = 3


def remarks(container: Container) -> Iterator[Finding]:
    """What was left out, and what cannot be checked; nothing for a recorded trajectory.

    Args:
        container: Any container.

    Yields:
        Findings of the rules CKPT-101 and above.
    """
    from trajfile.importers.container import CheckpointContainer

    if not isinstance(container, CheckpointContainer):
        return
    yield finding(
        "CKPT-101",
        "",
        "checkpoints carry no checksums to rely on: names, shapes, sizes and steps were checked",
    )
    for reason, names in container.left_out.items():
        yield finding("CKPT-102", "", f"not read ({reason}): {_some(names)}", names=list(names))
    for reason, names in container.tensors_left_out.items():
        yield finding("CKPT-103", "", f"not read ({reason}): {_some(names)}", names=list(names))
    foreign = sorted({name for c in container.checkpoints for name in c.foreign})
    if foreign:
        yield finding(
            "CKPT-104",
            "",
            f"a pickle mentions {_some(foreign)}; nothing of it was run",
            names=foreign,
        )
    ran = [c.path.name for c in container.checkpoints if c.ran]
    if ran:
        yield finding(
            "CKPT-104",
            "",
            f"code was run that these name, as --trust says: {_some(ran)}",
            names=ran,
        )


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
