"""Finding out what is committed: the last valid record, and the manifest it names."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.record import (
    Record,
    crc32c,
    has_record_width,
    in_force,
    valid_records,
)
from trajfile.containers.store import COMMITS, MANIFEST, MAX_MANIFEST_BYTES, ArraySpec, ArrayStore
from trajfile.errors import Damaged, Unsafe
from trajfile.schema import Identity, Manifest, SchemaError, parse_identity, parse_manifest

_TABLES = (
    ArraySpec(MANIFEST, "uint8", None, (1,)),
    ArraySpec(COMMITS, "uint64", 0, (1, 1)),
)

_PATIENCE = (0.001, 0.01, 0.05)  # seconds


class State(NamedTuple):
    """What is committed.

    Attributes:
        table: The valid rows of /commits, uint64.
        commits: Which of them are commits that no rewind has taken back.
        manifest: The revision in force.
        record: The last record.
    """

    table: NDArray[np.uint64]
    commits: list[int]
    manifest: Manifest
    record: Record


def load_state(store: ArrayStore) -> State:
    """Read the commit records and the manifest of a store, and check both.

    Args:
        store: The arrays.

    Returns:
        What is committed; before the first commit, the first line of the manifest is in force.
    """
    store.expect(_TABLES)
    table, commits = _load_table(store)
    streams = (store.columns(COMMITS) - 8) // 2
    record = Record.decode(table[-1]) if len(table) else Record.empty(streams)
    return State(table, commits, _load_manifest(store, record, streams), record)


def revision_at(store: ArrayStore, manifest_bytes: int) -> Manifest:
    """An earlier revision of the manifest.

    Args:
        store: The arrays.
        manifest_bytes: Bytes of /manifest committed along with it; 0 for the first revision.

    Returns:
        The revision.
    """
    if manifest_bytes == 0:
        return parse_manifest(first_line(store))
    return parse_manifest(store.load(MANIFEST, manifest_bytes).tobytes())


def identity_of(store: ArrayStore) -> Identity:
    """What every revision of a store's manifest repeats."""
    return Identity(store.uuid, store.format_version)


def first_line(store: ArrayStore) -> bytes:
    """The first revision of the manifest; it is there from creation on."""
    return store.load(MANIFEST).tobytes().partition(b"\n")[0] + b"\n"


def damaged(store: ArrayStore, what: str, key: str, rule: str) -> Damaged:
    """The error for a place that contradicts itself or another."""
    place = "/" + key.lstrip("/")
    return Damaged(
        f"{store.path}, {place}: {what}; restore it from a copy, or save what is whole with "
        "`trajfile repair`",
        path=store.path,
        location=place,
        rule=rule,
    )


def mismatch(store: ArrayStore, key: str) -> Damaged:
    """The error for a table that fails the checksum in the commit record."""
    return damaged(store, "does not match the checksum in the commit record", key, "SUM-001")


def _load_table(store: ArrayStore) -> tuple[NDArray[np.uint64], list[int]]:
    width = store.columns(COMMITS)
    if not has_record_width(width):
        raise damaged(store, f"commit records cannot have {width} columns", COMMITS, "COM-007")
    for patience in (*_PATIENCE, None):
        table = store.load(COMMITS).astype(np.uint64)
        valid = valid_records(table)
        count = len(valid) if valid.all() else int(np.argmin(valid))
        torn = count < len(valid) and (table[count, -1] or valid[count:].any())
        if not torn or patience is None:
            break
        time.sleep(patience)  # it may have been met in the middle of being written
    if count < len(valid) and table[count, -1] and not valid[count:].any():
        what = f"commit record {count} does not match its checksum, and is not one cut short"
        raise damaged(store, what, COMMITS, "COM-001")
    if valid[count:].any():
        what = f"commit record {count} does not match its checksum, yet later ones do"
        raise damaged(store, what, COMMITS, "COM-001")
    try:
        return table[:count], in_force(table[:count])
    except ValueError as error:
        raise damaged(store, str(error), COMMITS, "COM-008") from error


def _load_manifest(store: ArrayStore, record: Record, streams: int) -> Manifest:
    if record.manifest_bytes > MAX_MANIFEST_BYTES:
        raise Unsafe(
            f"{store.path}: the manifest is said to have {record.manifest_bytes} bytes, above the "
            f"limit of {MAX_MANIFEST_BYTES}: read only files from a conforming writer",
            path=store.path,
            location="/manifest",
            rule="CORE-011",
        )
    if record.seq < 0:
        lines = first_line(store)
    else:
        lines = store.load(MANIFEST, record.manifest_bytes).tobytes()
        if crc32c(lines) != record.manifest_crc:
            raise mismatch(store, MANIFEST)
    try:
        manifest, identity = parse_manifest(lines), parse_identity(lines)
    except SchemaError as error:
        raise damaged(store, str(error), error.location, error.rule) from error
    if identity is not None and identity != identity_of(store):
        what = f"uuid or format version differ from those in the manifest, {identity.uuid}"
        raise damaged(store, what, "/", "SUM-004")
    if len(manifest.streams) != streams:
        what = f"the manifest lists {len(manifest.streams)} streams, the commit record {streams}"
        raise damaged(store, what, COMMITS, "COM-007")
    return manifest
