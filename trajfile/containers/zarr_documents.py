"""The documents of one Zarr hierarchy: what ``zarr.json`` says of each group and array."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from trajfile.containers.identity import Attributes
from trajfile.containers.shards import ShardLayout
from trajfile.containers.store import ArraySpec
from trajfile.containers.zarr_metadata import (
    ArrayDocument,
    GroupDocument,
    LayoutError,
    array_document,
    check_array,
    group_document,
)
from trajfile.errors import Damaged, Unsafe

DOCUMENT = "zarr.json"
INVALID_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Documents:
    """The documents below a root, each read once.

    Args:
        root: The root.
        files: What reads and writes there: a `Folder` or `Objects`.
        name: The root's name, for messages.
        archive: Whether chunks of lanes span several rows.

    Attributes:
        root: The root; another one once the folder was renamed.
        files: What reads and writes there.
    """

    def __init__(self, root: Path, files: Any, name: str, *, archive: bool):
        self.root = root
        self.files = files
        self._name = name
        self._archive = archive
        self._raw: dict[str, dict[str, Any]] = {}
        self._parsed: dict[str, ArrayDocument] = {}
        self._groups: set[str] = set()

    def create(self, spec: ArraySpec, compression: str | None) -> None:
        """Write the document of one empty array, and those of the groups above it."""
        folder = self.root
        for part in spec.key.split("/")[:-1]:
            folder /= part
            self.files.make(folder)
            if not self.files.holds(folder / DOCUMENT):
                self.files.put(folder / DOCUMENT, [msgspec.json.encode(group_document())])
        self.files.make(self.root / spec.key)
        document = array_document(spec, compression, archive=self._archive)
        self._take(spec.key, document)
        self.reshape(spec.key, document["shape"])

    def create_root(self, identity: Attributes) -> None:
        """Write the root's document, which makes the folder a trajectory."""
        self.files.put(self.root / DOCUMENT, [msgspec.json.encode(group_document(identity))])

    def assume(self, created: ArraySpec, now: ArraySpec, compression: str | None) -> None:
        """Take an array whose document is lost for one as `create` makes it, since widened."""
        document = array_document(created, compression, archive=self._archive)
        document["shape"] = [0] if now.columns is None else [0, now.columns]
        self._take(now.key, document)

    def check(self, spec: ArraySpec) -> ShardLayout | None:
        """Check that an array exists as specified, with at least as many columns.

        Args:
            spec: The array.

        Returns:
            How its shards are laid out, if it is a lane.

        Raises:
            Damaged: If it is not there, or not so.
            Unsafe: If its codecs are not among those of the format.
        """
        document = self.of(spec.key)
        try:
            return check_array(document, spec, archive=self._archive)
        except LayoutError as error:
            wrong = self.unsafe if error.rule == "ZR-007" else self.damaged
            raise wrong(spec.key, f"the array {error}", error.rule) from error

    def of(self, key: str) -> ArrayDocument:
        """The document of an array; Damaged if there is none, or none above it."""
        if key not in self._raw:
            *groups, _ = (key[: at.start()] for at in re.finditer("/|$", key))
            try:
                for group in groups:
                    self._check_group(group)
                self.files.refuse_link(self.root / key)
                raw = msgspec.json.decode(self.files.document(self.root / key / DOCUMENT))
                self._parsed[key] = msgspec.convert(raw, ArrayDocument)
            except FileNotFoundError as error:
                raise self.damaged(key, "the array is missing", "CORE-007") from error
            except INVALID_JSON as error:
                raise self.damaged(key, f"zarr.json is not valid: {error}", "ZR-002") from error
            self._raw[key] = raw
        return self._parsed[key]

    def reshape(self, key: str, shape: list[int]) -> None:
        """Write the document of an array with another shape."""
        self._raw[key]["shape"] = self._parsed[key].shape = shape
        self.files.put(self.root / key / DOCUMENT, [msgspec.json.encode(self._raw[key])])

    def forget(self) -> None:
        """Read the arrays' documents again when they are asked for."""
        self._raw.clear()
        self._parsed.clear()

    def damaged(self, key: str, what: str, rule: str) -> Damaged:
        """The error for what is wrong at a place."""
        return Damaged(
            f"{self._name}, /{key}: {what}; restore the folder from a copy",
            path=self._name,
            location=f"/{key}",
            rule=rule,
        )

    def unsafe(self, key: str, what: str, rule: str) -> Unsafe:
        """The error for what a safe reader does not follow."""
        return Unsafe(
            f"{self._name}, /{key}: {what}, which a safe reader does not follow: read only "
            "trajectories from a conforming writer",
            path=self._name,
            location=f"/{key}",
            rule=rule,
        )

    def _take(self, key: str, document: dict[str, Any]) -> None:
        self._raw[key] = document
        self._parsed[key] = msgspec.convert(document, ArrayDocument)

    def _check_group(self, key: str) -> None:
        if key in self._groups:
            return
        self.files.refuse_link(self.root / key)
        try:
            msgspec.json.decode(self.files.document(self.root / key / DOCUMENT), type=GroupDocument)
        except (FileNotFoundError, *INVALID_JSON) as error:
            raise self.damaged(key, "it has no valid zarr.json of a group", "ZR-003") from error
        self._groups.add(key)
