"""The small machine with a stack that a pickle is a list of instructions for.

It has those instructions that build plain data. Memory stays in proportion to the pickle: none can
allocate on the word of a number.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from trajfile.importers.pickled import Inert, Name, PickleError, plain_key

#: Builds what a call of a name would have built, or returns an `Inert` note.
Rebuild = Callable[[Any, Any], Any]
#: Builds what a persistent id stands for.
Refer = Callable[[Any], Any]

_MAX_LINE = 4096
_UINT = struct.Struct("<I")


class Machine:
    """A stack, with marks in it, and a memo; each method is one or several instructions.

    Args:
        data: Bytes that hold the pickle.
        rebuild: Called with a name and arguments where code would be called.
        refer: Called with each persistent id.
        start: The pickle's first byte.

    Attributes:
        at: The next byte.
        stack: What lies above the last mark.
        marks: What lies below each mark.
        memo: What is remembered, by number.
    """

    def __init__(self, data: bytes, rebuild: Rebuild, refer: Refer, start: int):
        self.data, self.at = data, start
        self.rebuild, self.refer = rebuild, refer
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def number(self, form: struct.Struct) -> Any:
        """The number that follows, of a fixed form."""
        (value,) = form.unpack_from(self.data, self.at)
        self.at += form.size
        return value

    def sized(self, form: struct.Struct, kind: str) -> None:
        """Push what follows, with its length before it: text, bytes, Latin-1 text or an integer."""
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
        """The line that follows, of at most 4096 bytes."""
        end = self.data.find(b"\n", self.at, self.at + _MAX_LINE)
        if end < 0:
            raise PickleError("a line of the pickle does not end")
        text = self.data[self.at : end].decode(coding)
        self.at = end + 1
        return text

    def since_mark(self) -> list[Any]:
        """Take the last mark off, and return what lies above it."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def drop(self) -> None:
        """POP_MARK: drop what lies above the last mark."""
        self.since_mark()

    def mark(self) -> None:
        """MARK: begin anew above a mark."""
        self.marks.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        """POP: drop the topmost, or the mark if there is nothing above it."""
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def empty_dict(self) -> None:
        """EMPTY_DICT: push a dictionary."""
        self.stack.append({})

    def empty_list(self) -> None:
        """EMPTY_LIST, EMPTY_SET: push a list; a set, whose elements would be hashed, is one too."""
        self.stack.append([])

    def empty_tuple(self) -> None:
        """EMPTY_TUPLE: push a tuple."""
        self.stack.append(())

    def tuple_of(self, count: int) -> None:
        """TUPLE1, TUPLE2, TUPLE3: make the topmost ones a tuple."""
        items = tuple(self.stack[-count:])
        if len(items) != count:
            raise PickleError("the pickle takes more from its stack than there is")
        self.stack[-count:] = [items]

    def marked_tuple(self) -> None:
        """TUPLE: make what lies above the mark a tuple."""
        items = tuple(self.since_mark())
        self.stack.append(items)

    def marked_list(self) -> None:
        """LIST: make what lies above the mark a list."""
        items = self.since_mark()
        self.stack.append(items)

    def marked_dict(self) -> None:
        """DICT: make the keys and values above the mark a dictionary."""
        pairs = self.since_mark()
        self.stack.append({})
        self.put(pairs)

    def frozen(self) -> None:
        """FROZENSET: a tuple here, since its elements would be hashed."""
        items = tuple(self.since_mark())
        self.stack.append(items)

    def append(self) -> None:
        """APPEND: append the topmost to the list below."""
        value = self.stack.pop()
        self.extend([value])

    def appends(self) -> None:
        """APPENDS, ADDITEMS: append what lies above the mark to the list below."""
        self.extend(self.since_mark())

    def extend(self, values: list[Any]) -> None:
        """Append some values to the topmost list, or note them of an object."""
        target = self.stack[-1]
        (target.elements if isinstance(target, Inert) else target).extend(values)

    def setitem(self) -> None:
        """SETITEM: set one item of the dictionary below."""
        value, key = self.stack.pop(), self.stack.pop()
        self.put([key, value])

    def setitems(self) -> None:
        """SETITEMS: set the items above the mark in the dictionary below."""
        self.put(self.since_mark())

    def put(self, pairs: list[Any]) -> None:
        """Set keys and values, one after another, in the topmost dictionary or object."""
        target = self.stack[-1]
        into = target.items if isinstance(target, Inert) else target
        if not isinstance(into, dict) or len(pairs) % 2:
            raise PickleError("the pickle sets items of what is no dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            into[plain_key(key)] = value

    def build(self) -> None:
        """BUILD: note the state of the object below."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state  # of a plain dict or list it is not needed

    def memoize(self) -> None:
        """MEMOIZE: remember the topmost under the next number."""
        self.memo[len(self.memo)] = self.stack[-1]

    def binput(self) -> None:
        """BINPUT: remember the topmost under a number of one byte."""
        self.memo[self.data[self.at]] = self.stack[-1]
        self.at += 1

    def long_binput(self) -> None:
        """LONG_BINPUT: remember the topmost under a number of four bytes."""
        self.memo[self.number(_UINT)] = self.stack[-1]

    def put_line(self) -> None:
        """PUT: remember the topmost under a number in digits."""
        self.memo[int(self.line())] = self.stack[-1]

    def binget(self) -> None:
        """BINGET: push what is remembered under a number of one byte."""
        self.stack.append(self.memo[self.data[self.at]])
        self.at += 1

    def long_binget(self) -> None:
        """LONG_BINGET: push what is remembered under a number of four bytes."""
        self.stack.append(self.memo[self.number(_UINT)])

    def get_line(self) -> None:
        """GET: push what is remembered under a number in digits."""
        self.stack.append(self.memo[int(self.line())])

    def dup(self) -> None:
        """DUP: push the topmost once more."""
        self.stack.append(self.stack[-1])

    def name(self) -> None:
        """GLOBAL: push the name of code, from two lines."""
        self.stack.append(Name(self.line(), self.line()))

    def stack_name(self) -> None:
        """STACK_GLOBAL: make two texts the name of code."""
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("the pickle names code by something that is no text")
        self.stack.append(Name(module, name))

    def call(self) -> None:
        """REDUCE, NEWOBJ: what a call would have built."""
        args, maker = self.stack.pop(), self.stack.pop()
        self.stack.append(self.rebuild(maker, args))

    def call_with_keywords(self) -> None:
        """NEWOBJ_EX: note a call with keywords."""
        keywords, args, maker = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append(Inert(maker, args, items=dict(keywords)))

    def call_marked(self) -> None:
        """OBJ: what a call of the first above the mark with the others would have built."""
        maker, *args = self.since_mark()
        self.stack.append(self.rebuild(maker, tuple(args)))

    def call_named(self) -> None:
        """INST: what a call of the name in two lines would have built."""
        maker = Name(self.line(), self.line())
        args = tuple(self.since_mark())
        self.stack.append(self.rebuild(maker, args))

    def persistent(self) -> None:
        """BINPERSID: what a persistent id stands for."""
        self.stack.append(self.refer(self.stack.pop()))

    def protocol(self) -> None:
        """PROTO: skip the number of the protocol."""
        self.at += 1

    def frame(self) -> None:
        """FRAME: skip the length of a frame."""
        self.at += 8
