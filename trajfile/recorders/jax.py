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
from functools import partial
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from trajfile.containers import Compression, Durability
from trajfile.errors import UsageError
from trajfile.recorders.presets import Preset, schedule_of
from trajfile.recorders.schedule import OPTIMIZER, SCALARS, STREAMS, Schedule
from trajfile.recorders.session import OnError, Row, Session
from trajfile.schema import GRADIENT_SAMPLES, GRADIENTS, OPTIMIZER_PREFIX, PARAMS, UPDATES
from trajfile.writer import Mode

try:
    import jax
    import jax.numpy as jnp
    import optax
    from jax.experimental import io_callback
except ImportError as error:
    raise UsageError(
        "trajfile.recorders.jax needs JAX and optax: pip install 'trajfile[jax]'"
    ) from error

Tree = Any
_SLOTS = {"mu": "exp_avg", "nu": "exp_avg_sq", "trace": "momentum_buffer"}


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
        self._rate = learning_rate
        self._row = Row()
        self._held: tuple[Row, Mapping[str, Any]] | None = None
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
            self._trace(state, gradients, params, updates, scalars)
            return updates, RecorderState(state.count + 1, after)

        return optax.GradientTransformationExtraArgs(init, update)

    def close(self) -> None:
        """Wait for the steps under way, commit what is queued and close the file."""
        jax.effects_barrier()  # type: ignore[no-untyped-call]
        with self._session.guarded():
            self._flush()
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

    # -- in the compiled program -------------------------------------------------------------

    def _trace(
        self,
        state: RecorderState,
        gradients: Tree,
        params: Tree,
        updates: Tree,
        scalars: Mapping[str, Any],
    ) -> None:
        """Put into the program: ask what is due, hand over what is."""
        rate: Any = self._rate(state.count) if callable(self._rate) else self._rate
        if rate is not None:
            scalars = {"learning_rate": rate, **scalars}
        slots = slots_of(state.inner, params)
        trees = {PARAMS: {"": params}, GRADIENTS: {"": gradients}, OPTIMIZER: slots}
        trees[UPDATES] = {"": updates}
        names = names_of(params)
        like = self._like(names, params, slots)
        loss = jnp.asarray(scalars.get("loss", scalars.get("value", jnp.nan)), jnp.float32)
        due = io_callback(
            self._ask, np.zeros(len(STREAMS), np.bool_), state.count, loss, ordered=True
        )
        for stream, parts in trees.items():
            if stream not in self.schedule.streams:
                continue
            wanted = [index for index, n in enumerate(names) if self.schedule.chooses(stream, n)]
            kept = [names[index] for index in wanted]
            for part, tree in parts.items():
                leaves = [jax.tree.leaves(tree)[index] for index in wanted]
                take = partial(self._take, stream, part, kept)
                by = jnp.asarray(1.0 if rate is None else rate, jnp.float32)
                self._when(due[STREAMS.index(stream)], take, (leaves, by))
        told = {name: jnp.asarray(value) for name, value in scalars.items()}
        self._when(due.any(), partial(self._commit, like), [due[STREAMS.index(SCALARS)], told])

    @staticmethod
    def _when(condition: Any, call: Callable[..., None], arguments: Any) -> None:
        def hand_over() -> None:
            io_callback(call, None, arguments, ordered=True)

        jax.lax.cond(condition, hand_over, lambda: None)

    def _like(self, names: list[str], params: Tree, slots: Mapping[str, Tree]) -> dict[str, Any]:
        """Shapes and dtypes of every stream, as arrays without memory."""

        def outlines(stream: str, tree: Tree) -> dict[str, Any]:
            return {
                name: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
                for name, leaf in zip(names, jax.tree.leaves(tree), strict=True)
                if self.schedule.chooses(stream, name)
            }

        like = {stream: outlines(stream, params) for stream in (PARAMS, GRADIENTS, UPDATES)}
        return like | {
            OPTIMIZER_PREFIX + slot: outlines(OPTIMIZER, tree) for slot, tree in slots.items()
        }

    # -- on the host -------------------------------------------------------------------------

    def _ask(self, count: Any, loss: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
        due: frozenset[str] = frozenset()
        with self._session.guarded():
            if int(count) > self._session.step:
                self._flush()
            self._held = None
            self._session.step = int(count)
            self._row = Row()
            due = self._session.due(None if np.isnan(loss) else float(loss))
        return np.array([stream in due for stream in STREAMS])

    def _take(self, stream: str, slot: str, names: list[str], given: Sequence[Any]) -> None:
        with self._session.guarded():
            leaves, rate = given
            # The program may reuse its memory once this returns.
            arrays = {n: np.array(leaf) for n, leaf in zip(names, leaves, strict=True)}
            if stream == UPDATES:
                # Divided here, where no compiler takes it for the undoing of a product. At
                # learning rate 0 nothing moves, whatever U_k.
                by = np.asarray(rate) if rate else np.float32(1)
                arrays = {n: (-a / by).astype(a.dtype) for n, a in arrays.items()}
            if slot:
                self._row.slots[slot] = arrays
            else:
                self._row.streams[stream] = arrays

    def _commit(self, like: Mapping[str, Any], given: Sequence[Any]) -> None:
        with self._session.guarded():
            if not self._session.recording:
                return
            due, scalars = given
            if due:
                self._row.scalars = {name: float(value) for name, value in scalars.items()}
            self._held = (self._row, like)

    def _flush(self) -> None:
        """Append what the last step held, now that it counts.

        `optax.MultiSteps` computes an update for every micro-batch and lets one of them count, so
        a step may be handed over several times, of which the last is it.
        """
        if self._held is not None and self._session.recording:
            row, like = self._held
            self._held = None
            self._session.declare(row, like)
            self._session.append(row)


def names_of(params: Tree) -> list[str]:
    """Names of a tree's leaves: the keys that lead to each, joined by dots.

    Args:
        params: Any tree of arrays.

    Returns:
        One for each leaf, in the order of the leaves.

    Raises:
        UsageError: If two leaves come to the same name.
    """
    names: list[str] = []
    for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]:
        keys = [str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path]
        if len(keys) > 1 and keys[-1] == "value":  # a flax.nnx.Variable around its array
            keys.pop()
        name = ".".join(keys) or "params"
        if name in names:
            raise UsageError(
                f"two leaves of the params come to the name {name!r} when their keys are joined "
                "by dots: rename one of the keys"
            )
        names.append(name)
    return names


def slots_of(state: Tree, params: Tree) -> dict[str, Tree]:
    """The parts of an optimizer's state that are trees like the params.

    Args:
        state: Any state.
        params: The params.

    Returns:
        By slot: ``exp_avg``, ``exp_avg_sq`` and ``momentum_buffer`` for optax's ``mu``, ``nu`` and
        ``trace``, other fields under their own names; a second one of a name under its path.
    """
    shape: Any = jax.tree.structure(params)
    sizes = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]

    def alike(tree: Tree) -> bool:
        return (
            jax.tree.structure(tree) == shape
            and [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] == sizes
        )

    slots: dict[str, Tree] = {}
    for path, part in jax.tree_util.tree_flatten_with_path(state, is_leaf=alike)[0]:
        if not alike(part):
            continue
        keys = [str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path]
        slot = _SLOTS.get(keys[-1], keys[-1]) if keys else "state"
        slots[slot if slot not in slots else ".".join(keys)] = part
    return slots
