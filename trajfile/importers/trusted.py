"""Running the code that a file of ``torch.save`` names, because the user said to trust the file.

Without that, nothing here runs. With it, only what is refused when read as data, or read in part,
is run, each file or piece of a distributed checkpoint once: what comes out is turned into plain
data, and its tensors are written to disk, from which they are read like those of any other
checkpoint. So a folder of any length takes the memory of one checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trajfile.errors import Damaged, FormatError, TrajfileError
from trajfile.importers.built import Built
from trajfile.importers.files import File, Files, known
from trajfile.importers.nested import Found, search
from trajfile.importers.pickled import PickleError
from trajfile.importers.refusal import TRUST
from trajfile.importers.torch_file import ZIP, Saved, read_saved

_MOST_SAID = 300


def load(file: File, files: Files) -> tuple[Saved, Found]:
    """What a file of ``torch.save`` holds: read as data, or run where that fails and is allowed.

    Args:
        file: The file.
        files: Reads it, and knows whether it is trusted.

    Returns:
        What was saved, and where in it the model and the optimizers are.

    Raises:
        FormatError: If it cannot be read; where running its code could help, that is offered.
    """
    try:
        saved = read_saved(file, files)
        found = search(saved.value, file.path)
    except FormatError as error:
        if not (error.rule == "CKPT-010" or isinstance(error.__cause__, PickleError)):
            raise
        if files.scratch is None:
            raise type(error)(f"{error}; {TRUST}", path=file.path, rule=error.rule) from error
    else:
        whole = not found.unread and (found.tensors or found.optimizers)
        if whole or files.scratch is None:
            return saved, found
    say(file)
    saved = run(file, files)
    return saved, search(saved.value, file.path)


def run(file: File, files: Files, start: int = 0, size: int | None = None) -> Saved:
    """Load a file as PyTorch does with ``weights_only=False``, and keep its tensors on disk.

    Args:
        file: The file, which the user trusts; `say` it before.
        files: Reads it.
        start: The first byte of what was saved.
        size: How many bytes that takes; by default the whole file.

    Returns:
        What was saved, as plain data.

    Raises:
        Damaged: If that fails, whatever the code raises.
    """
    assert files.scratch is not None
    mapped = size is None and files.bytes(file, 0, min(4, file.size)) == ZIP
    source: Any = file.path
    if size is not None:
        source = io.BytesIO(files.bytes(file, start, size, size))
    path = files.scratch.new()
    with _foreign_code(file.path), path.open("wb") as out:
        import torch

        # Only archives can be mapped; of the format before them all is read at once.
        value = torch.load(source, map_location="cpu", weights_only=False, mmap=mapped)
        built = Built(out)
        plain = built.plain(value)
    return Saved(
        value=plain,
        file=file,
        storages=built.storages,
        foreign=frozenset(),
        built=known(path, path.parent),
        digest=built.digest.hexdigest(),
    )


def run_pickle(file: File, data: bytes) -> tuple[Any, str]:
    """Run the pickle that a file is, which the user trusts, after saying so.

    Args:
        file: The file.
        data: Its bytes.

    Returns:
        The object that it builds, and a digest of the bytes.
    """
    say(file)
    with _foreign_code(file.path):
        value = pickle.loads(data)
    return value, hashlib.blake2b(data, digest_size=16).hexdigest()


def say(file: File) -> None:
    """Tell the user, on stderr, that the code which a file names is about to be run."""
    said = str(file.path).encode("unicode_escape").decode()
    sys.stderr.write(
        f"--trust: running the code that {said} names; only do this with files you made yourself\n"
    )
    sys.stderr.flush()


@contextlib.contextmanager
def _foreign_code(path: Path) -> Iterator[None]:
    """Whatever it prints goes to stderr, and whatever it raises becomes one sentence.

    Its modules may lie in the folder of the command, as with ``python -m``; they are looked for
    there last, so that none takes the place of an installed one.

    Args:
        path: The file that names it.

    Yields:
        Nothing.

    Raises:
        TrajfileError: As it is; it is this program's own.
        Damaged: For any other exception.
    """
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except TrajfileError:
        raise
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        text = " ".join(str(error).split()) or "no message"
        text = text if len(text) <= _MOST_SAID else text[: _MOST_SAID - 1] + "…"
        raise Damaged(
            f"{path} cannot be loaded with --trust either: {type(error).__name__}: {text}; run "
            "where the modules that it names can be imported, such as the folder of the training "
            "script, or save a state_dict() there",
            path=path,
            rule="CKPT-010",
        ) from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)
