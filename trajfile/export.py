"""Taking tensors out of a trajectory, into a file that other programs read.

Rows go from file to file in pieces, so memory is bounded, and the result appears whole or not at
all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trajfile.errors import UsageError
from trajfile.export_csv import write_csv
from trajfile.export_npz import write_npz
from trajfile.export_safetensors import write_safetensors
from trajfile.extract import Extract, extract
from trajfile.reader import Trajectory, opened
from trajfile.schema import PARAMS
from trajfile.whole_file import check_target, whole_file

_WRITERS = {".npz": write_npz, ".safetensors": write_safetensors, ".csv": write_csv}


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: Where.
        tensors: The tensors, with their rows and steps.
        nbytes: Size of the file in bytes.
        remarks: What must be known to read it back, a sentence each.
    """

    path: Path
    tensors: tuple[Extract, ...]
    nbytes: int
    remarks: tuple[str, ...]


def export(
    source: str | os.PathLike[str] | Trajectory,
    out: str | os.PathLike[str],
    tensors: Sequence[str] | str,
    *,
    stream: str = PARAMS,
    steps: slice | str | None = None,
    overwrite: bool = False,
    trust: bool = False,
) -> Exported:
    """Write tensors at their recorded steps to a file of another format.

    The suffix of ``out`` picks the format:

    * ``.npz``: an array of shape (rows, *shape) under each tensor's name, bit for bit; dtypes that
      NumPy lacks as unsigned integers that hold the bits, their name under ``<tensor>.dtype``.
    * ``.safetensors``: the same, bit for bit in their own dtype; the few that safetensors lacks as
      bits, with the dtype's name in the metadata.
    * ``.csv``: a line for each row, a column ``tensor[i,j]`` for each element; floats as the
      shortest decimals that give the same number back, NaNs without their payloads.

    Beside the tensors stand ``step``, the step of each row, and in gradient_samples ``sample``. A
    tensor that joined later has fewer rows and, unless alone, its own ``<tensor>.step``.

    Args:
        source: The run: its path, or the run already opened.
        out: The file to write.
        tensors: Names of tensors, or globs over names.
        stream: The stream they are taken from.
        steps: Which steps: a slice of step values or its text ``a:b:s``; all by default.
        overwrite: Whether to replace an existing file.
        trust: Whether to run code that checkpoints name; see `trajfile.open`.

    Returns:
        What was written.

    Raises:
        UsageError: If an argument names nothing, the suffix is none of these, or the file exists.
        FormatError: If the run cannot be read.
        ResourceError: If the disk is full.
    """
    path = Path(out)
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise UsageError(
            f"{path} has suffix {path.suffix!r}, which names no format to export to: use .npz, "
            ".safetensors or .csv"
        )
    check_target(path, overwrite=overwrite)
    names = [tensors] if isinstance(tensors, str) else list(tensors)
    if not names:
        raise UsageError("no tensor to export is named; `trajfile info` lists them")
    with opened(source, trust=trust) as trajectory:
        extracts = extract(trajectory, names, stream, steps)
        with whole_file(path) as file:
            remarks = write(file, extracts)
        return Exported(path, tuple(extracts), path.stat().st_size, tuple(remarks))
