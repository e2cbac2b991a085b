"""Loading the user's loss from ``file.py:factory``: the one place that runs foreign code."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trajfile.errors import TrajfileError, UsageError

Factory = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class UserLoss:
    """The user's loss as its factory returned it.

    Attributes:
        name: The factory as it was named, for messages.
        function: ``loss(tensors)``, or ``loss(tensors, batch)`` where there are batches.
        batches: What the loss is the mean over; None if it takes none.
        device: Where the loss wants its tensors: its own attribute ``device``, else the processor.
    """

    name: str
    function: Callable[..., Any]
    batches: Iterable[Any] | None
    device: str


def load_loss(source: str | Factory, metadata: Mapping[str, Any]) -> UserLoss:
    """Call the user's factory.

    A factory takes nothing, or one argument: the run's metadata, read-only. It returns the loss as
    a function of a dict of tensors by recorded name, ``loss(tensors)``; or such a function of
    tensors and a batch together with the batches, ``(loss, batches)``. The whole loss is then the
    mean over the batches, each counting alike, and the batches must be the same whenever they are
    gone through; an iterator, which can be gone through once, is kept as a list.

    Args:
        source: ``path/to/file.py:factory``, or the factory itself.
        metadata: The run's metadata.

    Returns:
        The loss.

    Raises:
        UsageError: If there is no such file or factory, it fails, or returns something else.
    """
    name = source if isinstance(source, str) else getattr(source, "__name__", repr(source))
    with running(name, "the factory"):
        factory = _found(source) if isinstance(source, str) else source
        wanted = _required(factory, name)
        made = factory(MappingProxyType(dict(metadata))) if wanted else factory()
    function, batches = made, None
    if isinstance(made, tuple) and len(made) == 2:
        function, batches = made
    if not callable(function):
        raise UsageError(
            f"--replay {name}: the factory returned {_kind(made)}; expected the loss as a function "
            "of a dict of tensors, or a pair of a function (tensors, batch) and the batches"
        )
    if batches is not None:
        if not isinstance(batches, Iterable):
            raise UsageError(
                f"--replay {name}: the factory returned {_kind(batches)} for the batches; expected "
                "an iterable of them"
            )
        with running(name, "going through the batches"):
            batches = list(batches) if isinstance(batches, Iterator) else batches
    device = getattr(function, "device", "cpu")
    return UserLoss(name, function, batches, str(device))


@contextlib.contextmanager
def running(name: str, what: str, given: str = "") -> Iterator[None]:
    """Run the user's code: what it prints goes to stderr, and what it raises becomes a sentence.

    Args:
        name: The factory as it was named.
        what: What is being run, to be followed by "failed".
        given: What it was run with, to end the sentence.

    Yields:
        Nothing.

    Raises:
        TrajfileError: As it is; it is this program's own.
        UsageError: For any other exception, naming the line of the user's file it came from.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except TrajfileError:
        raise
    except (Exception, SystemExit) as error:  # whatever foreign code raises is the user's to see
        text = " ".join(str(error).split()) or "no message"
        text = text if len(text) <= 300 else text[:299] + "…"
        kind = type(error).__name__
        raise UsageError(
            f"--replay {name}: {what} failed with {kind}: {text}{_line(error, name)}{given}"
        ) from error


def _found(source: str) -> Factory:
    """The factory that ``file.py:factory`` names; imports the file as a module of its own."""
    file, colon, attribute = source.rpartition(":")
    if not (colon and file and attribute.isidentifier()):
        raise UsageError(
            f"--replay {source!r} is not of the form file.py:factory, for example model.py:loss"
        )
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"--replay {source}: there is no file {file}")
    folder = str(path.resolve().parent)
    module_name = f"trajfile_replay_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--replay {source}: {file} is not a Python file; expected a name in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look a class's module up there
    if folder not in sys.path:
        sys.path.insert(0, folder)  # the file's neighbours, as when it is run by itself
    spec.loader.exec_module(module)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        what = f"no {attribute!r}" if factory is None else f"{attribute!r}, {_kind(factory)}"
        have = [n for n, v in vars(module).items() if inspect.isfunction(v)]
        raise UsageError(
            f"--replay {source}: {file} has {what}; expected a factory, a function that returns "
            f"the loss. It has {', '.join(have) or 'no functions'}"
        )
    found: Factory = factory
    return found


def _required(factory: Factory, name: str) -> bool:
    """Whether the factory wants the metadata."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # a builtin without a signature
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in parameters if p.default is p.empty and p.kind in positional]
    if len(required) > 1:
        raise UsageError(
            f"--replay {name}: the factory takes {len(required)} arguments, expected none, or one "
            "for the run's metadata"
        )
    return len(required) == 1


def _line(error: BaseException, name: str) -> str:
    """Where in the user's file the error came from, if it passed through it."""
    file = name.rpartition(":")[0]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if file and Path(frame.filename).name == Path(file).name:
            return f" ({Path(file).name}, line {frame.lineno})"
    if isinstance(error, SyntaxError) and error.lineno:
        return f" (line {error.lineno})"
    return ""


def _kind(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
