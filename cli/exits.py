"""Exit codes: the one place where an error becomes a sentence on stderr and a number.

0 done and clean; 1 the check failed; 2 wrong usage; 3 the input cannot be read; 4 out of
resources; 130 interrupted. Beyond the contract: 70 (EX_SOFTWARE) for a bug in trajfile itself,
and 141 (128 + SIGPIPE) when whoever read stdout stopped reading, as every Unix tool ends.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec

from .render.text import clean

CHECK_FAILED = 1
USAGE = 2
UNREADABLE = 3
RESOURCES = 4
BUG = 70
INTERRUPTED = 130
BROKEN_PIPE = 141

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_P = ParamSpec("_P")


def guarded(command: Callable[_P, int | None]) -> Callable[_P, None]:
    """Make a command end the process with its exit code, whatever happens inside.

    Args:
        command: A command's function; it returns its exit code, None for 0.

    Returns:
        The same function for the command line: it raises SystemExit and nothing else.
    """

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
            print(end="", flush=True)  # what cannot be written is found out here, not at exit
        except BaseException as error:
            if isinstance(error, SystemExit):
                raise
            code = settle(error)
        raise SystemExit(code)

    # The command line is built from the signature: the return type must be the wrapper's own.
    run.__annotations__ = command.__annotations__ | {"return": None}
    return run


def settle(error: BaseException) -> int:
    """Say on stderr what went wrong.

    With the environment variable TRAJFILE_DEBUG set, the traceback precedes the sentence.

    Args:
        error: What ended the command.

    Returns:
        The exit code.
    """
    if isinstance(error, BrokenPipeError):
        # Python flushes stdout once more at exit; there is nobody left to read it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    code, sentence = classify(error)
    if os.environ.get("TRAJFILE_DEBUG"):
        traceback.print_exception(error)
    print(f"trajfile: {clean(sentence)}", file=sys.stderr)
    return code


def classify(error: BaseException) -> tuple[int, str]:
    """The exit code of an error, and what to say about it."""
    from trajfile.errors import FormatError, MissingStream, RecordError, ResourceError, UsageError

    match error:
        case KeyboardInterrupt():
            return INTERRUPTED, str(error) or "interrupted; nothing was changed"
        case UsageError() | MissingStream() | RecordError():
            return USAGE, str(error)
        case FormatError():
            return UNREADABLE, _located(error)
        case ResourceError():
            return RESOURCES, str(error)
        case MemoryError():
            return RESOURCES, "out of memory; give analyze a smaller --memory, or fewer --params"
        case OSError() if error.errno in _DISK_FULL:
            where = f" while writing {error.filename}" if error.filename else ""
            return RESOURCES, f"the disk is full{where}; make room and run it again"
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return UNREADABLE, f"{where}{error.strerror or error}"
    return BUG, (
        f"internal error, {type(error).__name__}: {error}. This is a bug in trajfile: please "
        "report it with the traceback that TRAJFILE_DEBUG=1 shows"
    )


def _located(error: BaseException) -> str:
    """The message, led by the path and ended by the broken rule where it names neither."""
    message, path, rule = str(error), getattr(error, "path", ""), getattr(error, "rule", "")
    if path and path not in message:
        message = f"{path}: {message}"
    if rule and rule not in message:
        message = f"{message.rstrip('.')} [{rule}]"
    return message
