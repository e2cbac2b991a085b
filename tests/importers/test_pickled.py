"""The reader of pickles, held against the one of the standard library and against hostile bytes."""

from __future__ import annotations

import contextlib
import pickle
import random
from collections import OrderedDict

import pytest

from trajfile.importers.pickled import Inert, PickleError
from trajfile.importers.torch_storage import Reader
from trajfile.importers.unpickle import unpickle

PLAIN = {
    "text": "naïve", "numbers": [0, 1, 255, 256, 65536, -1, 2**31, -(2**63), 2**70, -(2**70)],
    "floats": [0.5, -1e300, float("inf")], "flags": (True, False, None), "bytes": b"\x00\xff" * 300,
    "nested": {1: {2.5: [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}]}, (1, "a"): "tuple key"},
    "long": "x" * 300, "ordered": OrderedDict([("b", 1), ("a", 2)]), "empty": [[], {}, ""],
}  # fmt: skip


def read(data):
    reader = Reader()
    return unpickle(data, reader.rebuild, reader.refer)[0]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_is_as_the_library_reads_it(protocol):
    value = {k: v for k, v in PLAIN.items() if k != "bytes" or protocol >= 3}
    data = pickle.dumps(value, protocol)
    assert read(data) == pickle.loads(data)
    shared = [1]
    again = read(pickle.dumps([shared, shared], protocol))
    assert again[0] is again[1]


def test_objects_stay_notes():
    class Anything:
        pass

    Anything.__qualname__ = "Anything"
    globals()["Anything"] = Anything
    held = Anything()
    held.x = [1, 2]
    found = read(pickle.dumps(held))
    assert isinstance(found, Inert)
    assert found.state == {"x": [1, 2]}


HOSTILE = {
    "call": b"cos\nsystem\n(S'exit 1'\ntR.",
    "instance": b"(S'exit 1'\nios\nsystem\n.",
    "huge bytes": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b".",
    "huge text": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f" + b".",
    "huge bytearray": b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f" + b".",
    "huge memo": b"\x80\x02Nr\xff\xff\xff\xff.",
    "extension": b"\x80\x02\x82\x01.",
    "empty": b"",
    "nothing on the stack": b"\x80\x02.",
    "no mark": b"\x80\x02t.",
    "nested key": b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"Ns.",
    "nested lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "deep call": b"\x80\x02cx\ny\n)" + b"\x85" * 100_000 + b"R.",
    "long number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "long line": b"I" + b"1" * 100_000 + b"\n.",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_neither_run_nor_take_memory(case):
    with contextlib.suppress(PickleError):
        read(HOSTILE[case])


def test_any_bytes_end_in_a_value_or_a_pickle_error():
    rng = random.Random(0)
    whole = pickle.dumps(PLAIN, 2)
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(PickleError):
            read(bytes(data[: rng.randrange(1, len(data) + 1)]))
