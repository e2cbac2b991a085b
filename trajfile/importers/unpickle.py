"""Reading a pickle as a text and not as a program: nothing it names is imported or called.

A pickle is a list of instructions for a small machine with a stack. Those that build plain data are
known here; where others would import and call code the machine leaves an `Inert` note of what was
asked for, unless the caller recognises the name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from trajfile.importers.pickle_machine import Machine, Rebuild, Refer
from trajfile.importers.pickled import PickleError

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
        return _run(Machine(data, rebuild, refer, start))
    except PickleError:
        raise
    except _FAILURES as error:
        raise PickleError(f"the pickle is cut short or damaged ({error})") from error


def _run(machine: Machine) -> tuple[Any, int]:
    data, operations = machine.data, _OPERATIONS
    while True:
        code = data[machine.at]
        machine.at += 1
        operation = operations.get(code)
        if operation is not None:
            operation(machine)
        elif code in _CONSTANTS:
            machine.stack.append(_CONSTANTS[code])
        elif code in _FIXED:
            machine.stack.append(machine.number(_FIXED[code]))
        elif code in _SIZED:
            machine.sized(*_SIZED[code])
        elif code in _LINES:
            coding = "raw-unicode-escape" if code == ord("V") else "latin-1"
            machine.stack.append(_from_line(code, machine.line(coding)))
        elif code == ord("."):
            return machine.stack.pop(), machine.at
        else:
            raise PickleError(f"instruction {bytes([code])!r} is not one of plain data")


def _from_line(code: int, text: str) -> Any:
    if code == ord("I"):
        return text == "01" if text in {"00", "01"} else int(text)
    if code == ord("L"):
        return int(text.rstrip("L"))
    if code == ord("F"):
        return float(text)
    return text if code == ord("V") else text.strip("'\"")


_M = Machine
_OPERATIONS: dict[int, Callable[[Machine], None]] = {
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
