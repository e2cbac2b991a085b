"""What may be appended next: the rules of a growing trajectory, without any file.

`Recording` is immutable. `Recording.prepare` checks a whole append and returns it as `Pending`;
only once that is committed does `Pending.after` take the old recording's place. So an append
that is refused, or that fails half way, leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np

from trajfile.containers.base import Array, Commit, Container, Rows
from trajfile.containers.scattered import Scattered
from trajfile.declarations import (
    Outline,
    check_against_params,
    declared,
    slots_like_params,
    take_row,
)
from trajfile.dtypes import ITEM_SIZES, bits_dtype, bits_of, dtype_name, numpy_dtype
from trajfile.errors import RecordError, StepOrder, UndeclaredStream
from trajfile.intake import Given, is_empty, named_arrays, named_numbers, sample_count, step_number
from trajfile.memory import Lease, copy_at_once
from trajfile.provenance import extend_statement
from trajfile.schema import (
    GRADIENT_SAMPLES,
    PARAMS,
    Manifest,
    SchemaError,
    StreamSpec,
    check_manifest,
)

#: What a queued commit and each of its scalars take in memory beside rows, roughly.
_BYTES_A_COMMIT = 2**10
_BYTES_A_NUMBER = 2**7
#: Rows from this size on are left where they are; to lay out smaller ones costs little.
_LONG_BYTES = 2**20
#: Tensors up to this size are copied without letting another thread have the interpreter.
_AT_ONCE_BYTES = 2**16


@dataclass(frozen=True)
class Recording:
    """How far a trajectory has got.

    Attributes:
        manifest: The revision that the next append builds on.
        written: The revision in the file; None before there is one.
        rows: Committed rows by stream.
        last: Last step by stream; under ``scalars`` that of the scalars.
        step: Step of the last commit; -1 before there is one.
    """

    manifest: Manifest
    written: Manifest | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    last: Mapping[str, int] = field(default_factory=dict)
    step: int = -1

    @classmethod
    def resume(cls, container: Container, stated: Manifest) -> Recording:
        """Take up a trajectory where its last commit left it.

        Args:
            container: The trajectory.
            stated: What is now said of the run, for the next append to write. On the optimizer,
                the groups and the gradients it adds to what the file says; metadata, if any,
                take the place of those in the file.

        Returns:
            The recording.

        Raises:
            UsageError: If it contradicts what the file says.
        """
        written = container.manifest()
        manifest = msgspec.structs.replace(
            written,
            optimizer=extend_statement(written.optimizer, stated.optimizer, "optimizer"),
            groups=extend_statement(written.groups, stated.groups, "groups"),
            gradient=extend_statement(written.gradient, stated.gradient, "gradient"),
            metadata=stated.metadata or written.metadata,
        )
        last = {name: container.keys(name)[0][-1:] for name in written.by_name}
        last["scalars"] = container.scalars()[0][-1:]
        commits = container.commits()
        return cls(
            manifest=written if manifest == written else manifest,
            written=written,
            rows={name: container.committed_rows(name) for name in written.by_name},
            last={name: int(steps[0]) for name, steps in last.items() if len(steps)},
            step=int(commits[-1, 1]) if len(commits) else -1,
        )

    def declare(self, stream: str, like: Given | str) -> Recording:
        """The recording with one more stream declared.

        Args:
            stream: Its name.
            like: Arrays, by tensor name, of the shapes and dtypes it will hold; or the name of a
                declared stream whose tensors it shares.

        Returns:
            The new recording; this one if the file has the stream already.

        Raises:
            RecordError: If the name is not a stream's, nothing is declared by it, or it is
                declared already.
            UndeclaredStream: If the first append has been made without it, or ``like`` names a
                stream that is not declared.
        """
        if self.written is not None:
            _check_declared(stream, None, self.written)
            return self
        if stream in self.manifest.by_name:
            raise RecordError(f"stream {stream!r} is declared already", stream=stream)
        if isinstance(like, str):
            if like not in self.manifest.by_name:
                raise UndeclaredStream(
                    f"cannot declare {stream!r} like {like!r}, which is not declared; pass the "
                    "arrays themselves, or declare that stream first",
                    stream=like,
                )
            tensors = self.manifest.by_name[like].tensors
            outlines = {tensor.name: Outline(tensor.shape, tensor.dtype) for tensor in tensors}
        else:
            arrays = named_arrays(stream, like, None)
            outlines = {name: _outline(array) for name, array in arrays.items()}
        if not outlines:
            raise RecordError(f"stream {stream!r} is declared without any tensor", stream=stream)
        streams = (*self.manifest.streams, declared(stream, outlines))
        manifest = msgspec.structs.replace(self.manifest, streams=streams)
        return replace(self, manifest=_checked(manifest, None, stream))

    def prepare(self, step: object, streams: Mapping[str, Given], scalars: Given) -> Pending:
        """Check an append.

        Args:
            step: The step.
            streams: Tensors by stream; empty ones count as absent.
            scalars: Numbers by name; None counts as absent.

        Returns:
            The append, ready to be packed.

        Raises:
            RecordError: If anything in it cannot be recorded.
        """
        at = step_number(step)
        present = {name: given for name, given in streams.items() if not is_empty(given)}
        numbers = named_numbers(scalars, at)
        self._check_order(at, [*present, "scalars"] if numbers else [*present])
        arrays: dict[str, dict[str, Array]] = {}
        for name, given in present.items():
            if self.written is not None:
                _check_declared(name, at, self.written)
            named = named_arrays(name, given, at)
            if named:
                arrays[name] = named
        samples = sample_count(arrays.get(GRADIENT_SAMPLES, {}), at)
        manifest = self._manifest_with(at, arrays, numbers)
        return Pending(self, at, arrays, samples, numbers, manifest)

    def _check_order(self, step: int, parts: list[str]) -> None:
        if step < self.step:
            raise StepOrder(
                f"step {step} comes after step {self.step} has been recorded; append steps in "
                "increasing order",
                step=step,
            )
        for part in parts:
            last = self.last.get(part, -1)
            if step <= last:
                raise StepOrder(
                    f"{part} at step {step}: the last recorded step is {last}, and steps must "
                    "increase; append all of a step's values of one kind together",
                    step=step,
                    stream=part,
                )

    def _manifest_with(
        self, step: int, arrays: Mapping[str, Mapping[str, Array]], numbers: Mapping[str, float]
    ) -> Manifest:
        first = self.written is None
        table = dict(self.manifest.by_name)
        changed = list(table) if first else []
        for name, named in arrays.items():
            if not first and _as_before(table[name], named, self.rows.get(name, 0)):
                continue
            before = table.get(name, StreamSpec(name, ()))
            outlines = {key: _outline(array, name) for key, array in named.items()}
            row = self.rows.get(name, 0)
            table[name] = take_row(before, outlines, row, step, lanes_fixed=not first)
            if table[name] is not before and name not in changed:
                changed.append(name)
        for name in changed:
            if PARAMS in table and name != PARAMS:
                check_against_params(table[name], table[PARAMS], step)
        joined = [name for name in numbers if name not in self.manifest.scalars]
        if not (first or changed or joined):
            return self.manifest
        manifest = msgspec.structs.replace(
            self.manifest,
            streams=tuple(table.values()),
            scalars=(*self.manifest.scalars, *joined),
        )
        if first:
            slots = slots_like_params(manifest)
            manifest = msgspec.structs.replace(manifest, streams=(*manifest.streams, *slots))
        return _checked(manifest, step)


@dataclass(frozen=True)
class Pending:
    """An append that has passed every check.

    Attributes:
        before: The recording it was checked against.
        step: Its step.
        arrays: Its tensors by stream and name, as the caller's memory.
        samples: Number of gradient samples.
        scalars: Its numbers.
        manifest: The revision in force once it is committed.
    """

    before: Recording
    step: int
    arrays: Mapping[str, Mapping[str, Array]]
    samples: int
    scalars: Mapping[str, float]
    manifest: Manifest

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to record."""
        return not self.arrays and not self.scalars

    @property
    def nbytes(self) -> int:
        """Bytes of its rows once packed, and about what its numbers and it itself take."""
        rows = sum(self.manifest.by_name[s].row_bytes * self._rows(s) for s in self.arrays)
        return rows + _BYTES_A_COMMIT + _BYTES_A_NUMBER * len(self.scalars)

    def pack(self, lease: Lease, *, leave: bool = False) -> Commit:
        """Copy the tensors into rows, bit for bit.

        Args:
            lease: Where the rows lie; not to be ended before they are written.
            leave: Whether long rows may be left where they are: the caller's memory is then free
                once they are written; otherwise, at once.

        Returns:
            The commit.
        """
        rows = {}
        for name, named in self.arrays.items():
            stream = self.manifest.by_name[name]
            count = self._rows(name)
            samples = np.arange(count, dtype=np.int32) if stream.sampled else None
            if leave and count * stream.row_bytes >= _LONG_BYTES:
                rows[name] = Rows(_left(stream, named, count), samples)
                continue
            lanes = {
                lane: lease.rows(count, columns, bits_dtype(lane))
                for lane, columns in stream.lanes.items()
            }
            if len(named) < len(stream.tensors):
                for bits in lanes.values():
                    bits[...] = 0
            into = {lane: bits.reshape(-1).view(np.uint8).data for lane, bits in lanes.items()}
            for key, array in named.items():
                tensor, size = stream.by_name[key], array.nbytes
                if count == 1 and size <= _AT_ONCE_BYTES and array.flags.c_contiguous:
                    start = tensor.offset * array.itemsize
                    copy_at_once(array, into[tensor.dtype][start : start + size])
                    continue
                target = lanes[tensor.dtype][:, tensor.columns]
                for index in range(count):
                    source = array[index, ...] if stream.sampled else array
                    target[index].reshape(tensor.shape)[...] = bits_of(source)
            rows[name] = Rows(
                {lane: bits.view(numpy_dtype(lane)) for lane, bits in lanes.items()}, samples
            )
        revised = None if self.manifest is self.before.written else self.manifest
        return Commit(self.step, rows, self.scalars, revised)

    def after(self) -> Recording:
        """The recording once this is committed."""
        kinds = [*self.arrays, "scalars"] if self.scalars else [*self.arrays]
        gained = {s: self.before.rows.get(s, 0) + self._rows(s) for s in self.arrays}
        return Recording(
            manifest=self.manifest,
            written=self.manifest,
            rows={**self.before.rows, **gained},
            last={**self.before.last, **dict.fromkeys(kinds, self.step)},
            step=self.step,
        )

    def _rows(self, stream: str) -> int:
        return self.samples if stream == GRADIENT_SAMPLES else 1


def _as_before(stream: StreamSpec, named: Mapping[str, Array], row: int) -> bool:
    """Whether a row holds the tensors of the one before and no other; looked at first."""
    if len(named) != len(stream.tensors):
        return False
    known, sampled = stream.by_name, stream.sampled
    for name, array in named.items():
        tensor = known.get(name)
        if (
            tensor is None
            or tensor.shape != (array.shape[1:] if sampled else array.shape)
            or tensor.dtype != dtype_name(array.dtype)
            or tensor.first_row > row
        ):
            return False
    return True


def _left(stream: StreamSpec, named: Mapping[str, Array], count: int) -> dict[str, Scattered]:
    """Rows of a stream's lanes, of tensors that stay where they are."""
    parts: dict[str, list[tuple[int, Array]]] = {lane: [] for lane in stream.lanes}
    for name, array in named.items():
        tensor = stream.by_name[name]
        parts[tensor.dtype].append((tensor.offset, array.reshape(count, tensor.size)))
    return {
        lane: Scattered(
            (count, columns), numpy_dtype(lane), sorted(parts[lane], key=lambda part: part[0])
        )
        for lane, columns in stream.lanes.items()
    }


def _outline(array: Array, stream: str = "") -> Outline:
    name = dtype_name(array.dtype)
    assert name in ITEM_SIZES, "as_array lets nothing else pass"
    return Outline(array.shape[1:] if stream == GRADIENT_SAMPLES else array.shape, name)


def _check_declared(stream: str, step: int | None, manifest: Manifest) -> None:
    if stream not in manifest.by_name:
        streams = ", ".join(manifest.by_name) or "none"
        where = repr(stream) if step is None else f"{stream!r} at step {step}"
        raise UndeclaredStream(
            f"stream {where} was not declared before the first append (declared: {streams}); "
            f"streams are fixed by then, so call declare({stream!r}, like=params) before it",
            step=step,
            stream=stream,
        )


def _checked(manifest: Manifest, step: int | None, stream: str = "") -> Manifest:
    try:
        check_manifest(manifest)
    except SchemaError as error:
        where = "" if step is None else f" at step {step}"
        raise RecordError(
            f"this cannot be recorded{where}: {error}", step=step, stream=stream
        ) from error
    return manifest
