"""What is known of a run without reading a tensor, in a form that can be sent between processes."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, Commit, Container
from trajfile.errors import UsageError
from trajfile.schema import Manifest, parse_manifest


class Keys(msgspec.Struct, frozen=True):
    """Rows of one stream.

    Attributes:
        steps: int64, little-endian.
        samples: int32, little-endian; None unless rows are keyed by samples.
        chunk_columns: Width of a chunk of each lane.
    """

    steps: bytes
    samples: bytes | None
    chunk_columns: dict[str, int]


class Outline(msgspec.Struct, frozen=True):
    """A run but for its tensors.

    Attributes:
        kind: The container.
        path: Where it lies.
        uuid: Its identity.
        format_version: Of the file.
        manifest: The revision in force, as its line.
        commits: int64, three columns, little-endian.
        keys: By stream.
        scalar_steps: int64, little-endian.
        scalar_values: float64, a column for each name, little-endian.
        stored_bytes: Size on disk.
    """

    kind: str
    path: str
    uuid: str
    format_version: tuple[int, int]
    manifest: bytes
    commits: bytes
    keys: dict[str, Keys]
    scalar_steps: bytes
    scalar_values: bytes
    stored_bytes: int

    @classmethod
    def of(cls, container: Container) -> Outline:
        """Take down what a container holds besides tensors."""
        manifest = container.manifest()
        keys = {}
        for spec in manifest.streams:
            steps, samples = container.keys(spec.name)
            widths = {lane: container.chunk_columns(spec.name, lane) for lane in spec.lanes}
            packed = None if samples is None else samples.astype("<i4").tobytes()
            keys[spec.name] = Keys(steps.astype("<i8").tobytes(), packed, widths)
        steps, values = container.scalars()
        return cls(
            kind=container.kind,
            path=container.path,
            uuid=container.uuid,
            format_version=container.format_version,
            manifest=manifest.to_line(),
            commits=container.commits().astype("<i8").tobytes(),
            keys=keys,
            scalar_steps=steps.astype("<i8").tobytes(),
            scalar_values=np.ascontiguousarray(values).astype("<f8").tobytes(),
            stored_bytes=container.stored_bytes(),
        )


@dataclass
class OutlineContainer:
    """A container made of an outline: everything but tensors.

    Attributes:
        outline: What it holds. Bytes that do not fit the manifest are a `ValueError`.
    """

    outline: Outline
    kind: str = field(init=False)
    path: str = field(init=False)
    uuid: str = field(init=False)
    format_version: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        """Take everything apart, and so check it."""
        outline = self.outline
        self.kind, self.path, self.uuid = outline.kind, outline.path, outline.uuid
        self.format_version = outline.format_version
        self._manifest = parse_manifest(outline.manifest)
        self._commits = np.frombuffer(outline.commits, "<i8").reshape(-1, 3).astype(np.int64)
        if set(outline.keys) != set(self._manifest.by_name) or outline.stored_bytes < 0:
            raise ValueError("the streams are not those of the manifest")
        self._keys = {}
        for name, keys in outline.keys.items():
            spec = self._manifest.by_name[name]
            steps = np.frombuffer(keys.steps, "<i8").astype(np.int64)
            samples = None
            if keys.samples is not None:
                samples = np.frombuffer(keys.samples, "<i4").astype(np.int32)
            widths = keys.chunk_columns
            if spec.sampled != (samples is not None) or set(widths) != set(spec.lanes):
                raise ValueError(f"the keys of {name} do not fit it")
            if (samples is not None and len(samples) != len(steps)) or min(
                widths.values(), default=1
            ) < 1:
                raise ValueError(f"the keys of {name} do not fit it")
            self._keys[name] = (steps, samples)
        self._steps = np.frombuffer(outline.scalar_steps, "<i8").astype(np.int64)
        shape = (len(self._steps), len(self._manifest.scalars))
        values = np.frombuffer(outline.scalar_values, "<f8").reshape(shape)
        self._values: NDArray[np.float64] = np.ascontiguousarray(values, np.float64)

    def manifest(self) -> Manifest:
        """The revision in force."""
        return self._manifest

    def commits(self) -> NDArray[np.int64]:
        """Shape (commits, 3): sequence number, step and wall-clock time in ns since 1970."""
        return self._commits

    def committed_rows(self, stream: str) -> int:
        """Number of committed rows of a stream."""
        return len(self._keys[stream][0])

    def keys(self, stream: str) -> tuple[NDArray[np.int64], NDArray[np.int32] | None]:
        """The step of each committed row and, for gradient samples, its sample index."""
        return self._keys[stream]

    def scalars(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps and values of the scalars."""
        return self._steps, self._values

    def read(self, stream: str, lane: str, rows: slice, columns: slice, out: Array) -> None:
        """Refused: tensors stay in the file.

        Args:
            stream: The stream.
            lane: The lane.
            rows: Rows of it.
            columns: Columns of it.
            out: What would be filled.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            f"{self.path} was opened with untrusted=True, which reads no tensors; analyze it with "
            "untrusted=True, or open it without"
        )

    def chunk_columns(self, stream: str, lane: str) -> int:
        """Width in columns of the unit in which the lane is stored and verified."""
        return self.outline.keys[stream].chunk_columns[lane]

    def stored_bytes(self) -> int:
        """Size on disk in bytes."""
        return self.outline.stored_bytes

    def append(self, commit: Commit) -> None:
        """Refused: an outline is for reading.

        Args:
            commit: What would be appended.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{self.path} is not open for appending")

    def close(self) -> None:
        """Nothing is open."""
