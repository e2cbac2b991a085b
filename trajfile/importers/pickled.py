"""Reading a pickle as a text and not as a program: nothing it names is imported or called.

A pickle is a list of instructions for a small machine with a stack. This one knows the
instructions that build plain data; where others would import and call code it leaves an `Inert`
note of what was asked for, unless the caller recognises the name. Memory stays in proportion to
the pickle: no instruction can allocate on the word of a number, and no key is hashed that could be
nested.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class PickleError(ValueError):
    """Bytes that are no pickle of plain data."""


class Name(NamedTuple):
    """Code that a pickle mentions: a class or function, not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        """Dotted, as in Python."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Inert:
    """An object that was not built.

    Attributes:
        maker: What would have been called.
        args: With which arguments.
        state: The state that would have been set on it.
        items: What would have been set in it by key.
        elements: What would have been appended to it.
    """

    maker: Any
    args: Any = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


#: Builds what a call of a name would have built, or returns an `Inert` note.
Rebuild = Callable[[Any, Any], Any]
#: Builds what a persistent id stands for.
Refer = Callable[[Any], Any]

_PLAIN_KEYS = (str, int, float, bytes, bool, type(None))
_CONSTANTS: dict[int, Any] = {ord("N"): None, 0x88: True, 0x89: False}
_FIXED = {
    ord("J"): struct.Struct("<i"),
    ord("K"): struct.Struct("<B"),
    ord("M"): struct.Struct("<H"),
    ord("G"): struct.Struct(">d"),
}
_SIZED: dict[int, tuple[struct.Struct, str]] = {
    ord("X"): (struct.Struct("<I"), "text"),
    0x8C: (struct.Struct("<B"), "text"),
    0x8D: (struct.Struct("<Q"), "text"),
    ord("B"): (struct.Struct("<I"), "bytes"),
    ord("C"): (struct.Struct("<B"), "bytes"),
    0x8E: (struct.Struct("<Q"), "bytes"),
    0x96: (struct.Struct("<Q"), "bytes"),
    ord("T"): (struct.Struct("<I"), "latin"),
    ord("U"): (struct.Struct("<B"), "latin"),
    0x8A: (struct.Struct("<B"), "long"),
    0x8B: (struct.Struct("<I"), "long"),
}
_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    struct.error,
)
_LINES = b"ILSVF"
_MAX_LINE = 4096


def unpickle(data: bytes, rebuild: Rebuild, refer: Refer, start: int = 0) -> tuple[Any, int]:
    """Run one pickle.

    Args:
        data: Bytes that hold it.
        rebuild: Called with a name and arguments where code would be called.
        refer: Called with each persistent id.
        start: Its first byte.

    Returns:
        What it holds, and the byte after its end.

    Raises:
        PickleError: If the bytes are not a pickle, or use the extension registry.
    """
    try:
        return _Machine(data, rebuild, refer, start).run()
    except PickleError:
        raise
    except _FAILURES as error:
        raise PickleError(f"the pickle is cut short or damaged ({error})") from error


class _Machine:
    def __init__(self, data: bytes, rebuild: Rebuild, refer: Refer, start: int):
        self.data, self.at = data, start
        self.rebuild, self.refer = rebuild, refer
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> tuple[Any, int]:
        data, operations = self.data, _OPERATIONS
        while True:
            code = data[self.at]
            self.at += 1
            operation = operations.get(code)
            if operation is not None:
                operation(self)
            elif code in _CONSTANTS:
                self.stack.append(_CONSTANTS[code])
            elif code in _FIXED:
                self.stack.append(self.number(_FIXED[code]))
            elif code in _SIZED:
                self.sized(*_SIZED[code])
            elif code in _LINES:
                coding = "raw-unicode-escape" if code == ord("V") else "latin-1"
                self.stack.append(_from_line(code, self.line(coding)))
            elif code == ord("."):
                return self.stack.pop(), self.at
            else:
                raise PickleError(f"instruction {bytes([code])!r} is not one of plain data")

    def number(self, form: struct.Struct) -> Any:
        (value,) = form.unpack_from(self.data, self.at)
        self.at += form.size
        return value

    def sized(self, form: struct.Struct, kind: str) -> None:
        size = self.number(form)
        raw = self.data[self.at : self.at + size]
        if len(raw) != size:
            raise PickleError(f"the pickle ends within {size} bytes of {kind}")
        self.at += size
        if kind == "text":
            self.stack.append(raw.decode("utf-8", "surrogatepass"))
        elif kind == "latin":
            self.stack.append(raw.decode("latin-1"))
        elif kind == "long":
            self.stack.append(int.from_bytes(raw, "little", signed=True))
        else:
            self.stack.append(raw)

    def line(self, coding: str = "utf-8") -> str:
        end = self.data.find(b"\n", self.at, self.at + _MAX_LINE)
        if end < 0:
            raise PickleError("a line of the pickle does not end")
        text = self.data[self.at : end].decode(coding)
        self.at = end + 1
        return text

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def drop(self) -> None:
        self.since_mark()

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def empty_dict(self) -> None:
        self.stack.append({})

    def empty_list(self) -> None:
        self.stack.append([])

    def empty_tuple(self) -> None:
        self.stack.append(())

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) != count:
            raise PickleError("the pickle takes more from its stack than there is")
        self.stack[-count:] = [items]

    def marked_tuple(self) -> None:
        items = tuple(self.since_mark())
        self.stack.append(items)

    def marked_list(self) -> None:
        items = self.since_mark()
        self.stack.append(items)

    def marked_dict(self) -> None:
        pairs = self.since_mark()
        self.stack.append({})
        self.put(pairs)

    def frozen(self) -> None:
        items = tuple(self.since_mark())
        self.stack.append(items)

    def append(self) -> None:
        value = self.stack.pop()
        self.extend([value])

    def appends(self) -> None:
        self.extend(self.since_mark())

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        (target.elements if isinstance(target, Inert) else target).extend(values)

    def setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.put([key, value])

    def setitems(self) -> None:
        self.put(self.since_mark())

    def put(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        into = target.items if isinstance(target, Inert) else target
        if not isinstance(into, dict) or len(pairs) % 2:
            raise PickleError("the pickle sets items of what is no dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            into[plain_key(key)] = value

    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state  # of a plain dict or list it is not needed

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def binput(self) -> None:
        self.memo[self.data[self.at]] = self.stack[-1]
        self.at += 1

    def long_binput(self) -> None:
        self.memo[self.number(_UINT)] = self.stack[-1]

    def put_line(self) -> None:
        self.memo[int(self.line())] = self.stack[-1]

    def binget(self) -> None:
        self.stack.append(self.memo[self.data[self.at]])
        self.at += 1

    def long_binget(self) -> None:
        self.stack.append(self.memo[self.number(_UINT)])

    def get_line(self) -> None:
        self.stack.append(self.memo[int(self.line())])

    def dup(self) -> None:
        self.stack.append(self.stack[-1])

    def name(self) -> None:
        self.stack.append(Name(self.line(), self.line()))

    def stack_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("the pickle names code by something that is no text")
        self.stack.append(Name(module, name))

    def call(self) -> None:
        args, maker = self.stack.pop(), self.stack.pop()
        self.stack.append(self.rebuild(maker, args))

    def call_with_keywords(self) -> None:
        keywords, args, maker = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append(Inert(maker, args, items=dict(keywords)))

    def call_marked(self) -> None:
        maker, *args = self.since_mark()
        self.stack.append(self.rebuild(maker, tuple(args)))

    def call_named(self) -> None:
        maker = Name(self.line(), self.line())
        args = tuple(self.since_mark())
        self.stack.append(self.rebuild(maker, args))

    def persistent(self) -> None:
        self.stack.append(self.refer(self.stack.pop()))

    def protocol(self) -> None:
        self.at += 1

    def frame(self) -> None:
        self.at += 8


def plain_key(key: Any) -> Any:
    """A key that is hashed without descending into it; a tuple's own parts may be plain keys.

    Args:
        key: Any object of a pickle.

    Returns:
        The same key.

    Raises:
        PickleError: If it is anything else.
    """
    plain = isinstance(key, _PLAIN_KEYS) and not isinstance(key, tuple)
    if plain or (type(key) is tuple and all(isinstance(part, _PLAIN_KEYS) for part in key)):
        return key
    return Key(key)


class Key:
    """A key of another kind, the same only as itself.

    Attributes:
        held: The key.
    """

    def __init__(self, held: Any):
        self.held = held


def _from_line(code: int, text: str) -> Any:
    if code == ord("I"):
        return text == "01" if text in {"00", "01"} else int(text)
    if code == ord("L"):
        return int(text.rstrip("L"))
    if code == ord("F"):
        return float(text)
    return text if code == ord("V") else text.strip("'\"")


_UINT = struct.Struct("<I")
_M = _Machine
_OPERATIONS: dict[int, Callable[[_Machine], None]] = {
    ord("("): _M.mark,
    ord("0"): _M.pop,
    ord("1"): _M.drop,
    ord("2"): _M.dup,
    ord("}"): _M.empty_dict,
    ord("]"): _M.empty_list,
    0x8F: _M.empty_list,
    ord(")"): _M.empty_tuple,
    0x85: lambda machine: machine.tuple_of(1),
    0x86: lambda machine: machine.tuple_of(2),
    0x87: lambda machine: machine.tuple_of(3),
    ord("t"): _M.marked_tuple,
    ord("l"): _M.marked_list,
    ord("d"): _M.marked_dict,
    0x91: _M.frozen,
    ord("a"): _M.append,
    ord("e"): _M.appends,
    0x90: _M.appends,
    ord("s"): _M.setitem,
    ord("u"): _M.setitems,
    ord("b"): _M.build,
    0x94: _M.memoize,
    ord("q"): _M.binput,
    ord("r"): _M.long_binput,
    ord("p"): _M.put_line,
    ord("h"): _M.binget,
    ord("j"): _M.long_binget,
    ord("g"): _M.get_line,
    ord("c"): _M.name,
    0x93: _M.stack_name,
    ord("R"): _M.call,
    0x81: _M.call,
    0x92: _M.call_with_keywords,
    ord("o"): _M.call_marked,
    ord("i"): _M.call_named,
    ord("Q"): _M.persistent,
    0x80: _M.protocol,
    0x95: _M.frame,
}
