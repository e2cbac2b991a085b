"""Record a PyTorch training through the hooks of its optimizer.

    with Recorder(model, optimizer, "run.h5", batch_size=64) as recorder:
        for inputs, labels in batches:
            loss = criterion(model(inputs), labels)
            loss.backward()
            recorder.observe(loss=loss)
            optimizer.step()
            optimizer.zero_grad()

Everything else is seen from the hooks: the parameters before the update, their gradients, the
optimizer's state, its learning rates. A step is an update that was made: micro-batches of an
accumulated gradient and updates that a GradScaler skips are not steps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import nn

from trajfile.containers import Compression, Durability
from trajfile.errors import UsageError
from trajfile.recorders.presets import Preset, schedule_of
from trajfile.recorders.schedule import Schedule
from trajfile.recorders.session import OnError, Session
from trajfile.recorders.torch_checks import Stage, check_distributed, with_samples
from trajfile.recorders.torch_gather import Gather
from trajfile.recorders.torch_names import Names, check_match, names_of
from trajfile.recorders.torch_rows import Rows
from trajfile.recorders.torch_samples import SampleLoss
from trajfile.recorders.torch_scaling import Scaling
from trajfile.recorders.torch_stage import StageJudge
from trajfile.recorders.torch_state import inner_optimizer, statement_of
from trajfile.recorders.torch_steps import Steps
from trajfile.recorders.torch_told import Told
from trajfile.schema import GRADIENT_SAMPLES, GRADIENTS
from trajfile.writer import Mode


class Recorder:
    """Records a model while one optimizer trains it.

    Memory: what is due is copied once, into the queue, which holds at most ``queue_bytes`` (a
    single larger step passes alone). One row more is held during the first update, and during
    each update for which ``updates`` are due; from an accelerator or from shards, each step that
    is due comes to host memory first. Gradient samples take two rows each while they are drawn; of
    sharded parameters the samples lie in the writing process alone, and each process holds a
    second set of its shards meanwhile.

    Attributes:
        schedule: What is recorded when.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        path: str | os.PathLike[str],
        schedule: Schedule | Preset | str = "standard",
        *,
        steps: int | None = None,
        first_step: int = 0,
        gradient_stage: Stage | None = None,
        source: Literal["mini_batch", "full_batch"] = "mini_batch",
        batch_size: int | None = None,
        dataset_size: int | None = None,
        scaler: Any = None,
        sample_loss: SampleLoss | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        metadata: Mapping[str, Any] | None = None,
        on_error: OnError = "warn",
        mode: Mode = "x",
        compression: Compression = None,
        durability: Durability = "process",
        background: bool = True,
        queue_bytes: int = 256 * 2**20,
    ):
        """Start to listen to the optimizer.

        Args:
            model: The model, possibly compiled or wrapped for distributed training.
            optimizer: Its optimizer, after any `fully_shard`.
            path: Where; see `trajfile.Writer`, as for the last four arguments.
            schedule: What to record when, or a preset: ``minimal``, ``standard``, ``full``.
            steps: Length of the run, if known; bounds what ``standard`` records.
            first_step: Updates made before, in a run that is resumed with ``mode="a"``.
            gradient_stage: What the gradients have been through when `step` is called. None: see
                for yourself; where that cannot be told (distributed), it must be said.
            source: Whether the loss is that of a mini-batch or of the whole data.
            batch_size: Examples behind one gradient, over all processes and micro-batches.
            dataset_size: Examples to draw from.
            scaler: The GradScaler, if there is one: then skipped updates are counted and its
                unscaling is told from clipping.
            sample_loss: Returns the loss of a fresh mini-batch, for ``gradient_samples``. With
                FSDP2 every process calls it, for its part of the mini-batch, and the sample is the
                mean, as in training; with DistributedDataParallel the first process alone.
            groups: ``layers``, ``scale_invariant``; see `trajfile.Writer`.
            metadata: Anything that JSON can hold.
            on_error: ``warn``: should recording fail, it stops with a warning; ``raise``: the
                error ends the training. Wrong arguments raise here, before it begins.
            mode: ``x``, ``w`` or ``a``.
            compression: None, ``zstd`` or ``gzip``.
            durability: ``process`` or ``power``.
            background: Whether a thread writes while training goes on.
            queue_bytes: The most it may hold; training waits once it is full.

        Raises:
            UsageError: If optimizer and model do not belong together, names collide, or an
                argument is wrong.
        """
        self._optimizer = inner_optimizer(optimizer)
        if not isinstance(self._optimizer, torch.optim.Optimizer):
            raise UsageError(
                f"the optimizer is a {type(optimizer).__name__}, expected a torch.optim.Optimizer"
            )
        names = names_of(model)
        check_match(names, self._optimizer)
        self.schedule = with_samples(schedule_of(schedule, steps), schedule, sample_loss)
        self.schedule.check_globs(names.tensors)
        gather = Gather(names.tensors.values())
        check_distributed(model, gather, self.schedule, gradient_stage)
        by_id = {id(parameter): name for name, parameter in names.tensors.items()}
        told: dict[str, Any] = {
            "source": source,
            "batch_size": batch_size,
            "dataset_size": dataset_size,
            "stage": gradient_stage,
        }
        if GRADIENT_SAMPLES in self.schedule.streams:
            told["sample_stage"] = "raw"
        self._session = Session(
            path if gather.writes else None,
            self.schedule,
            on_error=on_error,
            first_step=first_step,
            statements={
                "optimizer": statement_of(self._optimizer, by_id),
                "groups": groups,
                "gradient": {key: value for key, value in told.items() if value is not None},
                "metadata": {**_about(names), **(metadata or {})},
            },
            mode=mode,
            compression=compression,
            durability=durability,
            background=background,
            queue_bytes=queue_bytes,
        )
        # Accelerate keeps its scaler beside the optimizer that it wraps.
        scaler = scaler if scaler is not None else getattr(optimizer, "scaler", None)
        scaling = Scaling(self._optimizer, scaler)
        self._told = Told(scaling)
        self._steps: Steps | None = None
        if gather.writes or gather.sharded:
            watched = None
            if gradient_stage is None and GRADIENTS in self.schedule.streams:
                held = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
                watched = [p for p in names.tensors.values() if id(p) in held]
            self._steps = Steps(
                self._optimizer,
                session=self._session,
                rows=Rows(model, self._optimizer, self.schedule, gather, scaling),
                told=self._told,
                scaling=scaling,
                gather=gather,
                judge=StageJudge(self._session, watched),
                sample_loss=sample_loss,
            )

    @property
    def step(self) -> int:
        """Updates made so far, which is the number of the coming step; for a checkpoint."""
        return self._session.step

    @property
    def recording(self) -> bool:
        """Whether recording goes on: it has neither failed nor been closed."""
        return self._session.recording

    def listens_to(self, optimizer: Any) -> bool:
        """Whether this is the optimizer that is recorded, possibly wrapped."""
        return inner_optimizer(optimizer) is self._optimizer

    def state(self, statement: str, **what: object) -> None:
        """Add to what the file states, before anything is recorded.

        Args:
            statement: ``optimizer``, ``groups``, ``gradient`` or ``metadata``.
            **what: Keys and values.
        """
        self._session.state(statement, **what)

    def observe(self, *, add: bool = False, **scalars: Any) -> None:
        """Tell the loss, or any other number, of the coming step.

        Called for each micro-batch of an accumulated gradient, the mean of what was told is
        recorded: pass losses as they are, not divided by the number of micro-batches. Values
        stay on their device until a step is due for scalars, and those of an update that the
        scaler skips are dropped.

        Args:
            add: Whether what is told for several micro-batches adds up, instead of being averaged.
            **scalars: Numbers or tensors without axes, by name.
        """
        with self._session.guarded():
            if self._steps is not None:  # else nobody asks for it
                self._told.tell(scalars, add=add)

    def take_gradients(self) -> None:
        """Take the gradients now instead of when the optimizer is called: before they are clipped.

        Call it between ``backward`` (with a GradScaler: between ``unscale_``) and the clipping.
        What is recorded is then raw, and the file says what was applied.
        """
        with self._session.guarded():
            if self._steps is not None:
                self._steps.take_gradients()

    def burst(self, length: int) -> None:
        """Record the next steps whatever the schedule says: all streams but gradient samples.

        With sharded tensors all processes must call it alike.

        Args:
            length: How many steps.
        """
        self._session.clock.burst(self._session.step, length)

    def close(self) -> None:
        """Take the hooks off, commit what is queued and close the file."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None
        self._session.close()

    def __enter__(self) -> Self:
        """The recorder itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; what the body raised goes on."""
        self.close()


def _about(names: Names) -> dict[str, Any]:
    return {"tied": dict(names.aliases)} if names.aliases else {}
