"""Recording a trajectory: one `append` a step, one commit an append."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from trajfile.committing import Committing
from trajfile.containers import (
    Compression,
    Durability,
    check_options,
    create,
    load,
    open_container,
)
from trajfile.containers.journal import Journal
from trajfile.errors import UsageError
from trajfile.intake import Given, check_resume_step, slot_streams
from trajfile.paths import in_store
from trajfile.provenance import check_groups, check_statement
from trajfile.recording import Recording
from trajfile.replaceable import is_taken
from trajfile.schema import GRADIENT_SAMPLES, GRADIENTS, PARAMS, UPDATES, Manifest
from trajfile.version import __version__

Mode = Literal["x", "w", "a"]

_log = logging.getLogger("trajfile")


class Writer:
    """Appends the steps of a training run to a file.

    What belongs to step k: the parameters before update k, the gradients taken there, the update
    with theta_{k+1} = theta_k - learning_rate_k * update_k, and the loss and learning rate of
    that very step. Streams are fixed by the first `append`: it declares what it holds, the
    optimizer's name declares the slots that optimizer keeps, and `declare` any other stream that
    starts later. The file comes into being with the first append.

    Use it as a context manager, or call `close`. A program killed in between loses nothing up to
    `committed_step`: nothing that `append` has returned from, or with ``background=True`` nothing
    that has left the queue. ``mode="a"`` then goes on where the kill left it, and says so in a
    warning of the logger ``trajfile``.

    If the system refuses to write (the disk is full, say), `append` raises `ResourceError` and the
    file keeps every committed step. The same writer can go on once there is room: append that
    step again, or a later one.

    Example:
        >>> import tempfile, numpy as np, trajfile
        >>> path = tempfile.mkdtemp() + "/run.h5"
        >>> with trajfile.Writer(path, optimizer={"name": "SGD"}) as writer:
        ...     for step in range(3):
        ...         writer.append(
        ...             step,
        ...             params={"w": np.full(2, 0.5**step, np.float32)},
        ...             scalars={"loss": 0.25**step},
        ...         )
        >>> with trajfile.open(path) as run:
        ...     run["params"]["w"][1:]
        array([[0.5 , 0.5 ],
               [0.25, 0.25]], dtype=float32)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        mode: Mode = "x",
        *,
        compression: Compression = None,
        durability: Durability = "process",
        optimizer: Mapping[str, Any] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        gradient: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        background: bool = False,
        queue_bytes: int = 256 * 2**20,
        resume_step: int | None = None,
    ):
        """Prepare to record.

        Args:
            path: Where; ``.h5`` or ``.hdf5`` makes an HDF5 file, ``.zarr`` a Zarr v3 folder, which
                may lie in an S3-compatible store: ``s3://bucket/run.zarr``.
            mode: ``x``: create, and refuse an existing path. ``w``: replace an existing
                trajectory (at the first append), and refuse anything else. ``a``: continue an
                existing trajectory, or create it.
            compression: None, ``zstd`` or ``gzip``; a file that is continued keeps its own.
            durability: ``process``: a commit survives the program's death; ``power``: each is
                forced to the disk as well.
            optimizer: ``name`` as PyTorch calls it, ``weight_decay``, ``decoupled_weight_decay``,
                ``momentum``, ``nesterov``, ``betas``, ... When a file is continued, this and the
                next two may repeat what it says or add keys, for the old rows as for the new,
                but not contradict it; they are written with the next append.
            groups: Lists of tensor names: ``scale_invariant``, and ``layers`` in order. A tensor
                that joins later may be named too; `validate` remarks on those that never did.
            gradient: ``stage``: raw, scaled or clipped; ``source``: mini_batch or full_batch;
                ``batch_size``, ``dataset_size``.
            metadata: Anything that JSON can hold; if given, it replaces that of a file that is
                continued, with the next append.
            background: Whether `append` returns once the step is queued and a thread commits it.
            queue_bytes: Bound in bytes on what is queued; a larger single step passes alone.
            resume_step: With mode ``a``: the step from which training goes on, if it restarted from
                a state earlier than the last recorded one. What the file holds at and after this
                step is taken back, at once and all together; the manifest's ``lineage`` keeps
                when, from which step and how many rows.

        Raises:
            UsageError: If an argument is not one of these or contradicts the file that is
                continued, or the path is taken or unusable.
            ResourceError: If another writer has the file, or the system refuses to write.
        """
        self.path: Path | str = in_store(path) or Path(path)
        self._closed = False
        self._container: Journal | None = None
        self._committing: Committing | None = None
        self._options = (compression, durability)
        if mode not in ("x", "w", "a"):
            raise UsageError(f"mode {mode!r} is unknown: use 'x', 'w' or 'a'")
        if resume_step is not None:
            check_resume_step(resume_step, mode)
        if queue_bytes < 1:
            raise UsageError(f"queue_bytes is {queue_bytes}, expected at least 1")
        stated = Manifest(
            optimizer=check_statement(optimizer, "optimizer"),
            groups=check_groups(groups),
            gradient=check_statement(gradient, "gradient"),
            metadata=check_statement(metadata, "metadata"),
            software=f"trajfile {__version__}",
        )
        check_options(self.path, compression=compression, durability=durability)
        load(self.path)
        taken = is_taken(self.path, mode)
        if taken and mode == "a":
            self._container = open_container(self.path, writable=True, durability=durability)
            try:
                self._recording = Recording.resume(self._container, stated)
                if resume_step is not None and self._take_back(self._container, resume_step):
                    self._recording = Recording.resume(self._container, stated)
            except BaseException:
                self._container.close()  # let go of the file, so that a next try can have it
                raise
        else:
            self._recording = Recording(stated)
        self._replace = taken and mode == "w"
        self._queue_bytes = queue_bytes if background else 0

    @property
    def committed_step(self) -> int | None:
        """The last step that is in the file for good; None before there is one.

        With ``background=True`` it follows behind the last appended one; `flush` waits for it.
        """
        step = (self._committing.committed if self._committing else self._recording).step
        return step if step >= 0 else None

    def declare(self, stream: str, like: Mapping[str, object] | str) -> None:
        """Declare a stream that starts after the first append.

        Args:
            stream: ``params``, ``gradients``, ``updates``, ``gradient_samples`` or
                ``optimizer/<slot>``.
            like: Arrays by tensor name, of the shapes and dtypes it will hold (for
                gradient_samples: of one sample), or the name of a declared stream. A file that
                is continued and has the stream keeps it as it is.

        Raises:
            RecordError: If it comes after the first append, or declares nothing or twice.
        """
        self._check_open()
        self._recording = self._recording.declare(stream, like)

    def append(
        self,
        step: int,
        *,
        params: Given | None = None,
        gradients: Given | None = None,
        updates: Given | None = None,
        optimizer: Mapping[str, Given] | None = None,
        gradient_samples: Given | None = None,
        scalars: Given | None = None,
    ) -> None:
        """Record one step, or nothing of it.

        Each stream has its own cadence: leave out what is not recorded at this step. With
        nothing at all, nothing is committed.

        Args:
            step: The optimizer-step count; larger than any before in the same stream.
            params: The parameters before this step's update, by tensor name.
            gradients: The gradients taken there.
            updates: What the update will subtract, before the learning rate multiplies it.
            optimizer: The optimizer's slots, such as ``{"exp_avg": {name: array}}``. Tensors
                absent from a slot's first row are taken as frozen until they appear.
            gradient_samples: For each tensor an array of shape (L, *shape): gradients of L
                mini-batches at these parameters.
            scalars: Numbers by name, such as ``loss`` and ``learning_rate``; None is absent, NaN
                is a value.

        Raises:
            RecordError: If this cannot be recorded; the file is as it was and stays open.
            ResourceError: If the system refuses to write, as when the disk is full. The file keeps
                what is committed, and the next append goes on after `committed_step`: with
                ``background=True`` the failure is that of a step queued before, and all that was
                queued is dropped.
            UsageError: If the writer is closed or the file cannot be created.
        """
        self._check_open()
        streams = {
            PARAMS: params,
            GRADIENTS: gradients,
            UPDATES: updates,
            GRADIENT_SAMPLES: gradient_samples,
            **slot_streams(optimizer, step),
        }
        present = {name: given for name, given in streams.items() if given is not None}
        pending = self._recording.prepare(step, present, scalars or {})
        if pending.is_empty:
            return
        if self._container is None:
            self._container = self._create(pending.manifest)
            # From here on the streams are fixed, even if this first commit fails.
            self._recording = replace(
                self._recording, manifest=pending.manifest, written=pending.manifest
            )
            pending = replace(pending, before=self._recording)
        if self._committing is None:
            self._committing = Committing(self._container, self._recording, self._queue_bytes)
        try:
            self._committing.put(pending)
        finally:
            self._recording = self._committing.recording

    def flush(self) -> None:
        """Wait until every step appended so far is committed.

        Without ``background=True`` it always is.

        Raises:
            TrajfileError: What a queued commit failed with, unless `append` has raised it.
        """
        if self._committing is not None:
            try:
                self._committing.wait()
            finally:
                self._recording = self._committing.recording

    def close(self) -> None:
        """Commit what is queued and close the file; closing twice does nothing.

        Raises:
            TrajfileError: What a queued commit failed with, unless `append` has raised it.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if self._committing is not None:
                self._committing.close()
        finally:
            if self._container is not None:
                self._container.close()

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; what the body raised goes on."""
        self.close()

    def __repr__(self) -> str:
        """The path and how far it has got."""
        state = "closed" if self._closed else f"last step {self._recording.step}"
        return f"<trajfile.Writer {self.path} ({state})>"

    def _take_back(self, container: Journal, step: int) -> bool:
        taken = container.rewind(step)
        if taken is None:
            return False
        rows = ", ".join(f"{count} of {name}" for name, count in taken.rows.items())
        _log.info(
            "%s: resumes at step %d; took back the rows up to step %d (%s)",
            *(self.path, step, taken.last_step, rows),
        )
        return True

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"the writer of {self.path} is closed; open it again with mode='a'")

    def _create(self, manifest: Manifest) -> Journal:
        compression, durability = self._options
        try:
            container = create(
                self.path,
                manifest,
                compression=compression,
                durability=durability,
                replace=self._replace,
            )
        except OSError as error:
            raise UsageError(f"{self.path} cannot be created: {error}") from error
        self._replace = False
        return container
