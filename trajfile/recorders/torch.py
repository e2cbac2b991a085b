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
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import nn

from trajfile.containers import Compression, Durability
from trajfile.errors import UsageError
from trajfile.recorders.presets import Preset, schedule_of
from trajfile.recorders.schedule import OPTIMIZER, SCALARS, Schedule
from trajfile.recorders.session import OnError, RecordingWarning, Row, Session
from trajfile.recorders.torch_gather import Gather
from trajfile.recorders.torch_names import (
    Names,
    Outline,
    check_match,
    check_same,
    inner_model,
    names_of,
    outline_of,
)
from trajfile.recorders.torch_samples import SampleLoss, draw_samples
from trajfile.recorders.torch_stage import Scaling, StageProbe
from trajfile.recorders.torch_state import (
    inner_optimizer,
    rates_of,
    slots_like,
    slots_of,
    statement_of,
)
from trajfile.schema import GRADIENT_SAMPLES, GRADIENTS, PARAMS, UPDATES
from trajfile.writer import Mode

Stage = Literal["raw", "clipped", "scaled"]
Tensors = dict[str, torch.Tensor]


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
        self._model = model
        self._optimizer = inner_optimizer(optimizer)
        if not isinstance(self._optimizer, torch.optim.Optimizer):
            raise UsageError(
                f"the optimizer is a {type(optimizer).__name__}, expected a torch.optim.Optimizer"
            )
        names = names_of(model)
        check_match(names, self._optimizer)
        self.schedule = _with_samples(schedule_of(schedule, steps), schedule, sample_loss)
        self.schedule.check_globs(names.tensors)
        self._gather = Gather(names.tensors.values())
        _check_distributed(model, self._gather, self.schedule, gradient_stage)
        # Accelerate keeps its scaler beside the optimizer that it wraps.
        scaler = scaler if scaler is not None else getattr(optimizer, "scaler", None)
        self._scaling = Scaling(self._optimizer, scaler)
        self._sample_loss = sample_loss
        self._stage = gradient_stage
        self._observed: dict[str, list[tuple[int, Any]]] = {}
        self._sums: frozenset[str] | set[str] = frozenset()
        self._recorded: dict[str, Outline] = {}
        self._had_gradient: set[str] = set()
        self._slots: set[str] | None = None
        self._due: frozenset[str] | None = None
        self._taken: Tensors | None = None
        self._held: Row | None = None
        self._finishes = False  # whether the row of this step is to be finished after the update
        self._void = False
        self._handles: list[Any] = []
        self._probe: StageProbe | None = None
        by_id = {id(parameter): name for name, parameter in names.tensors.items()}
        told: dict[str, Any] = {
            "source": source,
            "batch_size": batch_size,
            "dataset_size": dataset_size,
        }
        told |= {"stage": gradient_stage}
        if GRADIENT_SAMPLES in self.schedule.streams:
            told["sample_stage"] = "raw"
        self._session = Session(
            path if self._gather.writes else None,
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
        if self._gather.writes or self._gather.sharded:
            self._handles = [
                self._optimizer.register_step_pre_hook(self._pre_hook),
                self._optimizer.register_step_post_hook(self._post_hook),
            ]
            if gradient_stage is None and GRADIENTS in self.schedule.streams:
                held = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
                self._probe = StageProbe(p for p in names.tensors.values() if id(p) in held)

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
            self._sums = self._sums | scalars.keys() if add else self._sums - scalars.keys()
            for name, value in scalars.items():
                if isinstance(value, torch.Tensor):
                    value = value.detach().clone()
                self._observed.setdefault(name, []).append((self._scaling.attempt, value))

    def take_gradients(self) -> None:
        """Take the gradients now instead of when the optimizer is called: before they are clipped.

        Call it between ``backward`` (with a GradScaler: between ``unscale_``) and the clipping.
        What is recorded is then raw, and the file says what was applied.
        """
        with self._session.guarded():
            if self._session.recording or self._gather.sharded:
                self._decide(None)
                if GRADIENTS in self._decided:
                    inverse = self._scaling.inverse()
                    self._taken = _copies(self._gradients(names_of(self._model), inverse))

    def burst(self, length: int) -> None:
        """Record the next steps whatever the schedule says: all streams but gradient samples.

        With sharded tensors all processes must call it alike.

        Args:
            length: How many steps.
        """
        self._session.clock.burst(self._session.step, length)

    def close(self) -> None:
        """Take the hooks off, commit what is queued and close the file."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._probe is not None:
            self._probe.close()
            self._probe = None
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

    # -- the hooks ---------------------------------------------------------------------------

    def _pre_hook(
        self, _: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._before(None)
            return None
        # The gradients come from the closure, so the first call of it is the moment.
        wrapped = self._after_first_call(closure)
        if len(args) > 1:
            return (args[0], wrapped, *args[2:]), kwargs
        return args, {**kwargs, "closure": wrapped}

    def _after_first_call(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        called = False

        def once() -> Any:
            nonlocal called
            loss = closure()
            if not called:
                called = True
                self._before(loss)
            return loss

        return once

    def _before(self, loss: Any) -> None:
        with self._session.guarded():
            self._held, self._finishes = None, False
            self._void = self._scaling.overflows()
            if self._void:
                return
            scale = self._scaling.count()
            try:
                self._decide(loss)
                due, taken = self._decided, self._taken
            finally:
                self._due = self._taken = None
            if due:
                self._finishes = UPDATES in due or not self._session.began
                self._record(due, taken, scale)
        self._observed.clear()

    def _post_hook(self, *_: Any) -> None:
        if self._void:
            self._observed.clear()
            self._due = self._taken = None
            return
        with self._session.guarded():
            row, self._held = self._held, None
            if self._finishes and self._gather.all_well(row is not None) and row is not None:
                self._finish(row)
        self._session.step += 1

    # -- one step ----------------------------------------------------------------------------

    @property
    def _decided(self) -> frozenset[str]:
        return self._due or frozenset()

    def _decide(self, loss: Any) -> None:
        """Settle what the coming step is due for, once, however often it is asked."""
        if loss is not None and "loss" not in self._observed:
            self.observe(loss=loss)
        if self._due is not None:
            return
        clock = self._session.clock
        heard, failure = None, None
        if clock.listens and self._gather.writes and "loss" in self._observed:
            try:
                heard = self._mean("loss")
            except (TypeError, ValueError, RuntimeError) as error:  # what was told is no number
                failure = error
        scheduled = clock.due(self._session.step, heard)
        # Where the writing process has failed, the others must still learn so from it.
        due = frozenset() if failure else self._session.admitted(scheduled)
        self._due = self._gather.agree(due, ask=bool(scheduled) or clock.listens)
        if failure is not None:
            raise failure

    def _record(self, due: frozenset[str], taken: Tensors | None, scale: float | None) -> None:
        names = names_of(self._model)
        check_same(self._recorded, names.tensors)
        row = Row()
        if PARAMS in due:
            row.streams[PARAMS] = self._whole(PARAMS, names.tensors)
            chosen = {n: p for n, p in names.tensors.items() if self._chosen(PARAMS, n)}
            self._recorded |= {name: outline_of(p) for name, p in chosen.items()}
        if GRADIENTS in due:
            inverse = self._scaling.inverse()
            found = taken if taken is not None else self._gradients(names, inverse)
            self._judge_stage(taken is not None)
            self._had_gradient |= found.keys()
            row.streams[GRADIENTS] = found
        if OPTIMIZER in due:
            row.slots = self._known_slots(names)
        if GRADIENT_SAMPLES in due and self._sample_loss is not None:
            chosen = {n: p for n, p in names.tensors.items() if self._chosen(GRADIENT_SAMPLES, n)}
            row.streams[GRADIENT_SAMPLES] = draw_samples(
                self._model, chosen, self._sample_loss, self.schedule.samples, self._gather
            )
        if not self._finishes:
            row.scalars = self._scalars(scale) if SCALARS in due else {}
            self._session.append(row)
        else:
            # The updates are known after the update, and so are the slots that the optimizer
            # keeps, all of which have to be declared with the first row.
            row.streams = {name: _copies(tensors) for name, tensors in row.streams.items()}
            row.slots = {name: _copies(tensors) for name, tensors in row.slots.items()}
            if UPDATES in due:
                row.streams[UPDATES] = _copies(self._whole(UPDATES, self._moved(names)))
            # Last, for it may fail in one process, and all must have gathered alike.
            row.scalars = self._scalars(scale) if SCALARS in due else {}
            self._held = row

    def _finish(self, row: Row) -> None:
        names = names_of(self._model)
        if UPDATES in row.streams:
            row.streams[UPDATES] = self._updates(row.streams[UPDATES], names)
        if not self._session.began:
            self._declare(row, names)
        self._session.append(row)

    def _declare(self, row: Row, names: Names) -> None:
        """Declare what the first row does not hold."""
        like: dict[str, Mapping[str, torch.Tensor]] = {}
        params = self._whole(PARAMS, names.tensors)
        if PARAMS not in row.streams:
            row.streams[PARAMS] = {}
            like[PARAMS] = params
        moved = {name: params[name] for name in self._moved(names) if name in params}
        with_gradient = {
            name: tensor
            for name, tensor in moved.items()
            if names.tensors[name].grad is not None or name in self._had_gradient
        }
        like |= {GRADIENTS: with_gradient, UPDATES: moved, GRADIENT_SAMPLES: moved}
        like = {
            stream: {name: t for name, t in tensors.items() if self._chosen(stream, name)}
            for stream, tensors in like.items()
        }
        self._had_gradient |= like[GRADIENTS].keys()
        if OPTIMIZER in self.schedule.streams:
            slots = slots_of(self._optimizer, self._slot_tensors(names), self._gather)
            among = {name: t for name, t in moved.items() if self._chosen(OPTIMIZER, name)}
            self._slots = set(slots)
            like |= slots_like(slots, among) if self._gather.writes else {}
        self._session.declare(row, like)

    # -- what a row is made of ---------------------------------------------------------------

    def _chosen(self, stream: str, name: str) -> bool:
        return self.schedule.chooses(stream, name)

    def _whole(self, stream: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
        """Tensors of a stream, gathered; empty where nothing is written."""
        whole = {
            name: self._gather.whole(tensor)
            for name, tensor in tensors.items()
            if self._chosen(stream, name)
        }
        return {name: tensor for name, tensor in whole.items() if tensor is not None}

    def _moved(self, names: Names) -> dict[str, nn.Parameter]:
        held = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        return {name: p for name, p in names.tensors.items() if id(p) in held}

    def _gradients(self, names: Names, inverse: torch.Tensor | None) -> Tensors:
        found: Tensors = {}
        for name, parameter in names.tensors.items():
            if not self._chosen(GRADIENTS, name):
                continue
            if parameter.grad is None:
                # Zero is what this step has of it; a tensor that never had one joins later.
                if name in self._had_gradient and self._gather.writes:
                    found[name] = torch.zeros(parameter.shape, dtype=parameter.dtype)
                continue
            gradient = self._gather.whole(parameter.grad)
            if gradient is not None:
                found[name] = (
                    gradient if inverse is None else gradient * inverse.to(gradient.device)
                )
        return found

    def _slot_tensors(self, names: Names) -> dict[str, nn.Parameter]:
        return {name: p for name, p in names.tensors.items() if self._chosen(OPTIMIZER, name)}

    def _known_slots(self, names: Names) -> dict[str, Any]:
        slots = slots_of(self._optimizer, self._slot_tensors(names), self._gather)
        if self._slots is not None and (late := slots.keys() - self._slots):
            warnings.warn(
                f"the optimizer has kept {', '.join(sorted(late))} only since after its first "
                "update; streams are fixed by then, so this is not recorded",
                RecordingWarning,
                stacklevel=6,
            )
            self._slots |= late
            self._late = late
        return {slot: held for slot, held in slots.items() if slot not in self._late}

    _late: frozenset[str] | set[str] = frozenset()

    def _updates(self, before: Mapping[str, Any], names: Names) -> Tensors:
        """U_k = (θ_k - θ_{k+1})/η_k, with the learning rate of each tensor's own group."""
        rates = {
            id(p): float(group.get("lr", 1.0))
            for group in self._optimizer.param_groups
            for p in group["params"]
        }
        after = self._whole(UPDATES, self._moved(names))
        return {
            name: (before[name] - now) / rate
            if (rate := rates[id(names.tensors[name])])
            else torch.zeros_like(now)  # at learning rate 0 nothing moves, whatever U_k
            for name, now in after.items()
        }

    def _scalars(self, scale: float | None) -> dict[str, object]:
        told: dict[str, object] = {name: self._mean(name) for name in self._observed}
        told |= rates_of(self._optimizer)
        if self._scaling.known:
            told |= {"loss_scale": scale, "skipped_steps": self._scaling.skipped}
        return told

    def _mean(self, name: str) -> float | None:
        """Of what was told of the coming update, and not of one that was skipped before it."""
        attempt = self._scaling.attempt
        numbers = [float(value) for when, value in self._observed[name] if when == attempt]
        if not numbers:
            return None
        total = sum(numbers)
        return total if len(numbers) == 1 or name in self._sums else total / len(numbers)

    def _judge_stage(self, taken: bool) -> None:
        """State in the file, before its first row, what the gradients have been through."""
        if self._session.began and self._probe is None:
            return
        changed = self._probe is not None and self._probe.changed()
        if not self._session.began and self._probe is not None:
            if taken:
                self._session.state(
                    "gradient", stage="raw", applied="clipped" if changed else "raw"
                )
            else:
                self._session.state("gradient", stage="clipped" if changed else "raw")
            if changed and not taken:
                warnings.warn(
                    "the gradients were changed in place between backward and optimizer.step(): "
                    "they are recorded as clipped; pass gradient_stage='clipped' if that is "
                    "right, or call take_gradients() before clipping to record them raw",
                    RecordingWarning,
                    stacklevel=7,
                )
        elif changed and not taken and self._session.stated("gradient").get("stage") == "raw":
            warnings.warn(
                f"from step {self._session.step} on the gradients are changed in place between "
                "backward and optimizer.step(), while the file says that they are raw; pass "
                "gradient_stage='clipped' from the start, or call take_gradients() before clipping",
                RecordingWarning,
                stacklevel=7,
            )
            self._probe.close()  # type: ignore[union-attr]  # it has just been asked
            self._probe = None


def _with_samples(
    schedule: Schedule, given: Schedule | str, sample_loss: SampleLoss | None
) -> Schedule:
    """The schedule, without samples where a preset asks for what cannot be drawn."""
    asked = GRADIENT_SAMPLES in schedule.streams
    if asked and sample_loss is None:
        if isinstance(given, Schedule):
            raise UsageError(
                "the schedule asks for gradient_samples: pass sample_loss, a function that takes "
                "a number and returns the loss of a fresh mini-batch"
            )
        return schedule.without(GRADIENT_SAMPLES)
    if sample_loss is not None and not asked:
        raise UsageError(
            "sample_loss is given, but the schedule draws no gradient_samples: say when, for "
            "instance Schedule(..., gradient_samples='every 500')"
        )
    return schedule


def _check_distributed(
    model: nn.Module, gather: Gather, schedule: Schedule, stage: Stage | None
) -> None:
    wrapped = inner_model(model) is not model and isinstance(
        model, nn.parallel.DistributedDataParallel
    )
    if (wrapped or gather.sharded) and stage is None and GRADIENTS in schedule.streams:
        raise UsageError(
            "whether gradients are clipped cannot be seen in distributed training: say "
            "gradient_stage='raw' or gradient_stage='clipped'"
        )
    if not gather.together:
        return
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    for module in inner_model(model).modules():
        if (
            isinstance(module, FullyShardedDataParallel)
            and module.sharding_strategy is not ShardingStrategy.NO_SHARD
        ):
            raise UsageError(
                "the model is sharded by FullyShardedDataParallel, which cuts parameters into "
                "pieces without shapes: shard it with torch.distributed.fsdp.fully_shard instead"
            )
        if (
            GRADIENT_SAMPLES in schedule.streams
            and isinstance(module, nn.SyncBatchNorm)
            and not gather.sharded
        ):
            raise UsageError(
                "gradient_samples are drawn by the first process alone, and SyncBatchNorm waits "
                "for the others: leave sample_loss out, or shard the model with fully_shard"
            )


def _about(names: Names) -> dict[str, Any]:
    return {"tied": dict(names.aliases)} if names.aliases else {}


def _copies(tensors: Mapping[str, Any]) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
