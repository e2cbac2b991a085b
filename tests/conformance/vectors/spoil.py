"""Ways to spoil an `Image`, its checksums mended where only the content is to be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.conformance.vectors.image import Image, crc, line, record

Change = Callable[[Image], None]


def revised(*changes: Callable[[dict[str, Any]], None], last: int = 1) -> Change:
    """Change the revision in force as JSON."""

    def change(image: Image) -> None:
        lines = image.tables["manifest"].tobytes().splitlines(keepends=True)
        revision = json.loads(lines[-1])
        for one in changes:
            one(revision)
        put_manifest(image, b"".join([*lines[:-last], line(revision)]))

    return change


def put_manifest(image: Image, text: bytes) -> None:
    """Put these bytes in force for every commit."""
    image.tables["manifest"] = np.frombuffer(text, np.uint8)
    n = streams(image)
    edit_records(image, lambda body: put(body, {3: len(text), 5 + n: crc(text)}))


def edit_records(image: Image, edit: Callable[[list[int]], None], *numbers: int) -> None:
    """Change commit records (all, unless some are named); their own checksums are mended."""
    table = image.tables["commits"]
    for number in numbers or range(len(table)):
        body = [int(value) for value in table[number, :-1]]
        edit(body)
        table[number] = record(*body)


def put(values: list[int], new: dict[int, int]) -> None:
    """Set entries of a list."""
    for place, value in new.items():
        values[place] = value


def rekeyed(stream: str, steps: list[int], samples: list[int] | None = None) -> Change:
    """Give a stream other keys."""

    def change(image: Image) -> None:
        image.tables[f"streams/{stream}/step"] = np.array(steps, "<i8")
        if samples is not None:
            image.tables[f"streams/{stream}/sample"] = np.array(samples, "<i4")
        place, n = names(image).index(stream), streams(image)

        def edit(body: list[int]) -> None:
            rows = body[5 + place]
            packed = b"".join(
                steps[row].to_bytes(8, "little", signed=True)
                + (b"" if samples is None else samples[row].to_bytes(4, "little"))
                for row in range(rows)
            )
            body[7 + n + place] = crc(packed)

        edit_records(image, edit)

    return change


def scalars_at(steps: list[int]) -> Change:
    """Give the scalars other steps."""

    def change(image: Image) -> None:
        image.tables["scalars/step"] = np.array(steps, "<i8")
        values, n = image.tables["scalars/value"], streams(image)

        def edit(body: list[int]) -> None:
            packed = b""
            for row in range(body[4]):
                for column, bits in [(2**32 - 1, steps[row]), *enumerate(map(int, values[row]))]:
                    packed += row.to_bytes(8, "little") + column.to_bytes(4, "little")
                    packed += bits.to_bytes(8, "little")
            body[6 + n] = crc(packed)

        edit_records(image, edit)

    return change


def streams(image: Image) -> int:
    """Number of streams that the commit records count."""
    return (image.tables["commits"].shape[1] - 8) // 2


def names(image: Image) -> list[str]:
    """Names of the streams."""
    lines = image.tables["manifest"].tobytes().splitlines()
    return [stream["name"] for stream in json.loads(lines[-1])["streams"]]


def flipped(key: str, place: int = 0) -> Change:
    """Flip a bit of a table."""

    def change(image: Image) -> None:
        data = bytearray(image.tables[key].tobytes())
        data[place] ^= 0x10
        whole = np.frombuffer(bytes(data), image.tables[key].dtype)
        image.tables[key] = whole.reshape(image.tables[key].shape)

    return change
