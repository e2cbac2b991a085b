"""Record a JAX training: the optimizer, wrapped as an optax gradient transformation.

    recorder = Recorder("run.h5", learning_rate=1e-3)
    optimizer = recorder.wrap(optax.adam(1e-3))
    ...
    updates, state = optimizer.update(gradients, state, params, loss=loss)  # within jit
    ...
    recorder.close()

Works under `jax.jit` and inside `lax.scan`, with any optimizer of optax or of one's own, and with
`flax.nnx.Optimizer`. Wrap the optimizer inside of `optax.MultiSteps` or `optax.apply_if_finite`,
so that the updates they leave out are no steps. The count of steps is part of the optimizer's
state, so that a restored state goes on counting.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from trajfile.containers import Compression, Durability
from trajfile.errors import UsageError
from trajfile.recorders.jax_package import jax, jnp, optax
from trajfile.recorders.jax_steps import Steps
from trajfile.recorders.jax_trees import Tree, names_of
from trajfile.recorders.presets import Preset, schedule_of
from trajfile.recorders.schedule import Schedule
from trajfile.recorders.session import OnError, Session
from trajfile.schema import GRADIENT_SAMPLES, UPDATES
from trajfile.writer import Mode


class RecorderState(NamedTuple):
    """State of a wrapped optimizer.

    Attributes:
        count: Updates made, int32.
        inner: The optimizer's own state.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, which nobody calls here
    inner: Tree


class Recorder:
    """Records the optimizer that it wraps.

    At each step the compiled program asks the host what is due (a round trip of tens of
    microseconds), and hands over what is. A row is held until the next step shows that it counts,
    and then copied into a queue of at most ``queue_bytes``.

    Attributes:
        schedule: What is recorded when.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        schedule: Schedule | Preset | str = "standard",
        *,
        learning_rate: float | Callable[[Any], Any] | None = None,
        steps: int | None = None,
        optimizer: Mapping[str, Any] | None = None,
        gradient_stage: Literal["raw", "clipped", "scaled"] = "raw",
        source: Literal["mini_batch", "full_batch"] = "mini_batch",
        batch_size: int | None = None,
        dataset_size: int | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        metadata: Mapping[str, Any] | None = None,
        on_error: OnError = "warn",
        mode: Mode = "x",
        compression: Compression = None,
        durability: Durability = "process",
        background: bool = True,
        queue_bytes: int = 256 * 2**20,
    ):
        """Open a recording.

        Args:
            path: Where; see `trajfile.Writer`, as for ``optimizer`` and from ``groups`` on.
            schedule: What to record when, or a preset. Without ``learning_rate`` there are no
                updates; gradient samples are drawn with `trajfile.recorders.numpy.Recorder`.
            learning_rate: That of the wrapped optimizer: a number or an optax schedule.
            steps: Length of the run, if known; bounds what ``standard`` records.
            optimizer: ``name``, ``weight_decay``, ``momentum``, ``betas``, ...: optax does not
                tell what a transformation is.
            gradient_stage: What the gradients have been through when `update` gets them.
            source: Whether the loss is that of a mini-batch or of the whole data.
            batch_size: Examples behind one gradient.
            dataset_size: Examples to draw from.
            groups: ``layers``, ``scale_invariant``.
            metadata: Anything that JSON can hold.
            on_error: ``warn``: should recording fail, it stops with a warning; ``raise``.
            mode: ``x``, ``w`` or ``a``.
            compression: None, ``zstd`` or ``gzip``.
            durability: ``process`` or ``power``.
            background: Whether a thread writes while training goes on.
            queue_bytes: The most it may hold; training waits once it is full.

        Raises:
            UsageError: If an argument is wrong or the path is taken.
        """
        chosen = schedule_of(schedule, steps)
        for stream, missing, remedy in (
            (UPDATES, learning_rate is None, "pass learning_rate"),
            (GRADIENT_SAMPLES, True, "draw them with trajfile.recorders.numpy.Recorder"),
        ):
            if stream in chosen.streams and missing:
                if isinstance(schedule, Schedule):
                    raise UsageError(f"the schedule asks for {stream}, which needs more: {remedy}")
                chosen = chosen.without(stream)
        self.schedule = chosen
        told = {
            "stage": gradient_stage,
            "source": source,
            "batch_size": batch_size,
            "dataset_size": dataset_size,
        }
        self._session = Session(
            path,
            chosen,
            on_error=on_error,
            statements={
                "optimizer": optimizer,
                "groups": groups,
                "gradient": {key: value for key, value in told.items() if value is not None},
                "metadata": metadata,
            },
            mode=mode,
            compression=compression,
            durability=durability,
            background=background,
            queue_bytes=queue_bytes,
        )
        self._steps = Steps(self._session, chosen, learning_rate)

    def wrap(self, optimizer: optax.GradientTransformation) -> Any:
        """The optimizer, recorded.

        Args:
            optimizer: Any gradient transformation. What it is chained with in front of the
                wrapped one (clipping, for instance) has been applied to the gradients that are
                recorded; what is inside has not.

        Returns:
            A `optax.GradientTransformationExtraArgs`. Its ``update`` needs ``params``, and takes
            ``loss`` and any other single number by keyword, to be recorded; ``value`` is passed
            on too.
        """
        inner = optax.with_extra_args_support(optimizer)

        def init(params: Tree) -> RecorderState:
            self.schedule.check_globs(names_of(params))
            return RecorderState(jnp.zeros((), jnp.int32), inner.init(params))

        def update(
            gradients: Tree, state: RecorderState, params: Tree = None, **extra: Any
        ) -> tuple[Tree, RecorderState]:
            if params is None:
                raise UsageError("recording needs the params: optimizer.update(g, state, params)")
            scalars = {name: value for name, value in extra.items() if jnp.ndim(value) == 0}
            passed = {name: value for name, value in extra.items() if name not in scalars}
            passed |= {"value": extra["value"]} if "value" in extra else {}
            updates, after = inner.update(gradients, state.inner, params, **passed)
            self._steps.trace(state.count, state.inner, gradients, params, updates, scalars)
            return updates, RecorderState(state.count + 1, after)

        return optax.GradientTransformationExtraArgs(init, update)

    def close(self) -> None:
        """Wait for the steps under way, commit what is queued and close the file."""
        jax.effects_barrier()  # type: ignore[no-untyped-call]
        with self._session.guarded():
            self._steps.flush()
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

    @property
    def recording(self) -> bool:
        """Whether recording goes on: it has neither failed nor been closed."""
        return self._session.recording
