"""The record that takes commits back, and the revision of the manifest that says so."""

from __future__ import annotations

import time
from dataclasses import replace

import msgspec

from trajfile.containers.record import Record, crc32c
from trajfile.containers.state import identity_of, revision_at
from trajfile.containers.store import ArrayStore
from trajfile.schema import Manifest, Rewind


def taken_back(
    store: ArrayStore, manifest: Manifest, last: Record, before: Record, step: int, last_step: int
) -> tuple[Manifest, bytes, Record]:
    """What has to be written to go back to an earlier record.

    Args:
        store: The arrays.
        manifest: The revision in force.
        last: The record in force.
        before: The record to go back to; an empty one for none.
        step: Commits at and after it are taken back.
        last_step: The last of them.

    Returns:
        The revision whose lineage ends with what was taken back, its line, and the record.
    """
    gone = {
        stream.name: now - then
        for stream, now, then in zip(manifest.streams, last.rows, before.rows, strict=True)
    }
    gone["scalars"] = last.scalar_rows - before.scalar_rows
    taken = Rewind(step, last_step, time.time_ns(), {k: n for k, n in gone.items() if n})
    tables = revision_at(store, before.manifest_bytes)
    revised = msgspec.structs.replace(
        manifest,
        streams=tables.streams,
        scalars=tables.scalars,
        lineage=(*manifest.lineage, taken),
    )
    line = revised.to_line(identity_of(store))
    record = replace(
        before,
        seq=last.seq + 1,
        step=~step,
        wall_ns=taken.wall_ns,
        manifest_bytes=last.manifest_bytes + len(line),
        manifest_crc=crc32c(line, last.manifest_crc),
    )
    return revised, line, record
