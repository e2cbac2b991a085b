"""The error tree: every failure a user can cause or meet is one of these.

A message says what is wrong, where, what was expected against what was found, and the remedy.
Anything else that escapes the package is a bug in it.
"""

from __future__ import annotations


class TrajfileError(Exception):
    """Base of every error that trajfile raises on purpose."""


class UsageError(TrajfileError, ValueError):
    """An argument asks for something that does not exist or cannot be (exit code 2)."""


class FormatError(TrajfileError):
    """The input cannot be read as a trajectory (exit code 3).

    Attributes:
        path: The file or folder.
        location: Where inside it, as an array key such as ``/commits``; empty for the whole.
        rule: The stable id of the rule of spec/format.md that is broken, such as ``CORE-004``.
    """

    def __init__(self, message: str, *, path: object = "", location: str = "", rule: str = ""):
        super().__init__(message)
        self.path = str(path)
        self.location = location
        self.rule = rule


class NotATrajectory(FormatError):
    """Missing, or some other program's file."""


class UnsupportedVersion(FormatError):
    """A newer major version, or a required feature this version does not know."""


class Damaged(FormatError):
    """A trajectory whose bytes contradict its checksums or its own records."""


class Unsafe(FormatError):
    """Holds a construct that a safe reader must not follow."""


class RecordError(TrajfileError, ValueError):
    """An append that cannot be recorded; the file stays valid and open.

    Attributes:
        step: The step that was being appended, or None outside of an append.
        stream: The stream concerned, or an empty string.
        tensor: The tensor concerned, or an empty string.
    """

    def __init__(
        self, message: str, *, step: int | None = None, stream: str = "", tensor: str = ""
    ):
        super().__init__(message)
        self.step = step
        self.stream = stream
        self.tensor = tensor


class StepOrder(RecordError):
    """A step that does not increase within its stream."""


class ShapeMismatch(RecordError):
    """A shape or dtype other than the one declared for the tensor."""


class UnknownTensor(RecordError):
    """A tensor that the trajectory's parameters do not hold."""


class MissingTensor(RecordError):
    """A declared tensor is absent from the row."""


class UndeclaredStream(RecordError):
    """A stream that was not declared before the first commit."""


class MissingStream(TrajfileError):
    """A metric asked for by name needs a stream that the file does not hold.

    Attributes:
        metric: The metric's id.
        stream: The stream it needs.
    """

    def __init__(self, message: str, *, metric: str, stream: str):
        super().__init__(message)
        self.metric = metric
        self.stream = stream


class ResourceError(TrajfileError):
    """The work does not fit: memory, disk or device (exit code 4).

    Attributes:
        needed: What it would take, in bytes where known.
        available: What there is, in bytes where known.
    """

    def __init__(self, message: str, *, needed: int | None = None, available: int | None = None):
        super().__init__(message)
        self.needed = needed
        self.available = available
