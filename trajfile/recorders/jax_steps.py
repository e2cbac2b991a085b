"""The steps of a JAX training: what is put into the compiled program, and what it calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from trajfile.recorders.jax_package import io_callback, jax, jnp
from trajfile.recorders.jax_trees import Tree, names_of, slots_of
from trajfile.recorders.schedule import OPTIMIZER, SCALARS, STREAMS, Schedule
from trajfile.recorders.session import Row, Session
from trajfile.schema import GRADIENTS, OPTIMIZER_PREFIX, PARAMS, UPDATES


class Steps:
    """Hands over to a session what a compiled program holds at each step.

    Args:
        session: Records the rows.
        schedule: What is recorded when.
        learning_rate: That of the optimizer, by which its updates are divided.
    """

    def __init__(
        self,
        session: Session,
        schedule: Schedule,
        learning_rate: float | Callable[[Any], Any] | None,
    ):
        self._session, self._schedule, self._rate = session, schedule, learning_rate
        self._row = Row()
        self._held: tuple[Row, Mapping[str, Any]] | None = None

    # -- in the compiled program -------------------------------------------------------------

    def trace(
        self,
        count: Any,
        state: Tree,
        gradients: Tree,
        params: Tree,
        updates: Tree,
        scalars: Mapping[str, Any],
    ) -> None:
        """Put into the program: ask what is due, hand over what is.

        Args:
            count: Updates made before.
            state: The optimizer's own state, before this one.
            gradients: What it was given.
            params: What it is about to move.
            updates: What it adds to them.
            scalars: Single numbers to be recorded.
        """
        rate: Any = self._rate(count) if callable(self._rate) else self._rate
        if rate is not None:
            scalars = {"learning_rate": rate, **scalars}
        slots = slots_of(state, params)
        trees = {PARAMS: {"": params}, GRADIENTS: {"": gradients}, OPTIMIZER: slots}
        trees[UPDATES] = {"": updates}
        names = names_of(params)
        like = self._like(names, params, slots)
        loss = jnp.asarray(scalars.get("loss", scalars.get("value", jnp.nan)), jnp.float32)
        due = io_callback(self._ask, np.zeros(len(STREAMS), np.bool_), count, loss, ordered=True)
        for stream, parts in trees.items():
            if stream not in self._schedule.streams:
                continue
            wanted = [index for index, n in enumerate(names) if self._schedule.chooses(stream, n)]
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
                if self._schedule.chooses(stream, name)
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
                self.flush()
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

    def flush(self) -> None:
        """Append what the last step held, now that it counts.

        `optax.MultiSteps` computes an update for every micro-batch and lets one of them count, so
        a step may be handed over several times, of which the last is it.
        """
        if self._held is not None and self._session.recording:
            row, like = self._held
            self._held = None
            self._session.declare(row, like)
            self._session.append(row)
