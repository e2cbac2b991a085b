"""The steps of a PyTorch training as they come, from the gradients to the row that is recorded.

Where tensors are sharded, all processes go the same way through a step: what is due is agreed on
first, then all gather, and what may fail in one of them comes after that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trajfile.recorders.schedule import OPTIMIZER, SCALARS
from trajfile.recorders.session import Row, Session
from trajfile.recorders.torch_gather import Gather
from trajfile.recorders.torch_names import Names
from trajfile.recorders.torch_rows import Rows, Tensors, copies
from trajfile.recorders.torch_samples import SampleLoss
from trajfile.recorders.torch_scaling import Scaling
from trajfile.recorders.torch_stage import StageJudge
from trajfile.recorders.torch_state import rates_of
from trajfile.recorders.torch_told import Told
from trajfile.schema import GRADIENT_SAMPLES, GRADIENTS, PARAMS, UPDATES


class Steps:
    """Listens to an optimizer, and records each update that it makes.

    Args:
        optimizer: The optimizer.
        session: The recording.
        rows: Takes the tensors.
        told: What the loop tells.
        scaling: What a GradScaler does.
        gather: How this process takes part.
        judge: States what the gradients have been through.
        sample_loss: The loss of a fresh mini-batch.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        session: Session,
        rows: Rows,
        told: Told,
        scaling: Scaling,
        gather: Gather,
        judge: StageJudge,
        sample_loss: SampleLoss | None,
    ):
        self._optimizer, self._session, self._rows, self._told = optimizer, session, rows, told
        self._scaling, self._gather, self._judge = scaling, gather, judge
        self._sample_loss = sample_loss
        self._due: frozenset[str] | None = None
        self._taken: Tensors | None = None
        self._held: Row | None = None
        self._finishes = False  # whether the row of this step is to be finished after the update
        self._void = False
        self._handles = [
            optimizer.register_step_pre_hook(self._pre_hook),
            optimizer.register_step_post_hook(self._post_hook),
        ]

    def take_gradients(self) -> None:
        """Take the gradients of the coming step now, if it is due for them."""
        if GRADIENTS in self._decided(None):
            self._taken = copies(self._rows.gradients(self._rows.names()))

    def close(self) -> None:
        """Listen no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._judge.close()

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
                due, taken = self._decided(loss), self._taken
            finally:
                self._due = self._taken = None
            if due:
                self._finishes = UPDATES in due or not self._session.began
                self._record(due, taken, scale)
        self._told.clear()

    def _post_hook(self, *_: Any) -> None:
        if self._void:
            self._told.clear()
            self._due = self._taken = None
            return
        with self._session.guarded():
            row, self._held = self._held, None
            if self._finishes and self._gather.all_well(row is not None) and row is not None:
                self._finish(row)
        self._session.step += 1

    def _decided(self, loss: Any) -> frozenset[str]:
        """What the coming step is due for, settled once, however often it is asked."""
        if loss is not None and "loss" not in self._told:
            self._told.tell({"loss": loss})
        if self._due is not None:
            return self._due
        clock = self._session.clock
        heard, failure = None, None
        if clock.listens and self._gather.writes and "loss" in self._told:
            try:
                heard = self._told.mean("loss")
            except (TypeError, ValueError, RuntimeError) as error:  # what was told is no number
                failure = error
        scheduled = clock.due(self._session.step, heard)
        # Where the writing process has failed, the others must still learn so from it.
        due = frozenset() if failure else self._session.admitted(scheduled)
        self._due = self._gather.agree(due, ask=bool(scheduled) or clock.listens)
        if failure is not None:
            raise failure
        return self._due

    def _record(self, due: frozenset[str], taken: Tensors | None, scale: float | None) -> None:
        rows = self._rows
        names = rows.names()
        row = Row()
        if PARAMS in due:
            row.streams[PARAMS] = rows.params(names)
        if GRADIENTS in due:
            found = taken if taken is not None else rows.gradients(names)
            self._judge.judge(taken=taken is not None)
            rows.note_gradients(found)
            row.streams[GRADIENTS] = found
        if OPTIMIZER in due:
            row.slots = dict(rows.slots(names))
        if GRADIENT_SAMPLES in due and self._sample_loss is not None:
            row.streams[GRADIENT_SAMPLES] = rows.samples(names, self._sample_loss)
        if self._finishes:
            # The updates are known after the update, and so are the slots that the optimizer
            # keeps, all of which have to be declared with the first row.
            row.streams = {name: copies(tensors) for name, tensors in row.streams.items()}
            row.slots = {name: copies(tensors) for name, tensors in row.slots.items()}
            if UPDATES in due:
                row.streams[UPDATES] = rows.moving(names)
        # After all that is gathered, for what was told may be no number.
        row.scalars = self._scalars(scale) if SCALARS in due else {}
        if self._finishes:
            self._held = row
        else:
            self._session.append(row)

    def _finish(self, row: Row) -> None:
        names: Names = self._rows.names()
        if UPDATES in row.streams:
            row.streams[UPDATES] = self._rows.updates(row.streams[UPDATES], names)
        if not self._session.began:
            self._session.declare(row, self._rows.likes(names))
        self._session.append(row)

    def _scalars(self, scale: float | None) -> dict[str, object]:
        found: dict[str, object] = {name: self._told.mean(name) for name in self._told}
        found |= rates_of(self._optimizer)
        if self._scaling.known:
            found |= {"loss_scale": scale, "skipped_steps": self._scaling.skipped}
        return found
