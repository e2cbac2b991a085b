"""Answering a `Replay` need: go to the snapshots, measure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Replayed
from trajfile.engine.needs import Preconditioner, Replay
from trajfile.errors import ResourceError, UsageError
from trajfile.reader import Trajectory
from trajfile.replay.factory import UserLoss
from trajfile.replay.lanczos import Eigenpairs, top_eigenpairs
from trajfile.replay.objective import Objective
from trajfile.replay.point import differentiable, tensors_at, whole_steps
from trajfile.replay.snapshots import visit
from trajfile.replay.threads import choose_threads, threads_restored
from trajfile.replay.trace import Trace, trace
from trajfile.schema import PARAMS

#: Two evaluations of one loss at one point may differ by this much of it, for rounding.
_REPEATABLE = 1e-5


def replay(
    loss: UserLoss, trajectory: Trajectory, header: Header, need: Replay, memory: int
) -> Replayed:
    """Measure the Hessian's top at chosen snapshots. Runs the user's code.

    Args:
        loss: The user's loss.
        trajectory: The run.
        header: Its selected part: at which steps, and by which tensors to differentiate. The loss
            is given all tensors of ``params``.
        need: What to measure.
        memory: Bytes that the vectors of the search may take.

    Returns:
        The measurements.

    Raises:
        UsageError: If the user's code fails, or does not go with the run.
        ResourceError: If not even a few vectors fit the memory.
    """
    selected = differentiable(header, loss.name)
    size = sum(spec.size for spec in selected.values())
    capacity = memory // (8 * size)
    if capacity < need.top + 3:
        raise ResourceError(
            f"--replay needs {need.top + 3} float64 vectors of {size} coordinates, "
            f"{8 * size * (need.top + 3)} bytes; allow that much with --memory, or select tensors "
            "with --params",
            needed=8 * size * (need.top + 3),
            available=memory,
        )
    slots = () if need.preconditioner is None else (need.preconditioner.slot,)
    steps = whole_steps(trajectory, header, (PARAMS, *slots))
    if slots:
        steps = steps[steps > 0]  # before the first update v is zero, and P is no scale
    session = _Session(loss, trajectory, list(selected), need, capacity)
    with threads_restored():
        visit(len(steps), need.snapshots, lambda place: session.at(int(steps[place])))
    return session.result()


@dataclass(frozen=True, eq=False)
class _Seen:
    """What was measured at one snapshot."""

    step: int
    loss: float
    gradient_norm: float
    plain: Eigenpairs
    trace: Trace
    preconditioned: Eigenpairs | None


class _Session:
    """One replay: the loss, and what was measured so far."""

    def __init__(
        self,
        loss: UserLoss,
        trajectory: Trajectory,
        selected: list[str],
        need: Replay,
        capacity: int,
    ) -> None:
        self.loss, self.trajectory, self.selected = loss, trajectory, selected
        self.need, self.capacity = need, capacity
        self.seen: list[_Seen] = []
        self.unused: tuple[str, ...] = ()
        self.dtypes: tuple[str, ...] = ()
        self.products = 0

    def at(self, step: int) -> float:
        """Measure at one snapshot; the value that decides where to look next."""
        tensors = tensors_at(self.trajectory, step, self.loss.device, float64=self.need.float64)
        objective = Objective(self.loss, tensors, self.selected)
        if not self.seen:
            self._check(objective)
            self.dtypes = tuple(sorted({str(tensors[n].dtype)[6:] for n in self.selected}))
        need = self.need
        nothing = Trace(math.nan, math.nan, 0)
        sound = math.isfinite(objective.value)
        plain = self._pairs(objective, None, sound)
        pairs = plain
        preconditioned = None
        if need.preconditioner is not None:
            scale = self._scale(need.preconditioner, step)
            preconditioned = self._pairs(objective, scale, sound)
            pairs = preconditioned
        like = objective.gradient
        estimate = trace(objective.product, like, need.trace) if need.trace and sound else nothing
        norm = float(objective.gradient.norm())
        self.seen.append(_Seen(step, objective.value, norm, plain, estimate, preconditioned))
        self.products += objective.products
        return float(pairs.values[0])

    def _pairs(self, objective: Objective, scale: torch.Tensor | None, sound: bool) -> Eigenpairs:
        """Top eigenpairs of the Hessian H, or with a scale d of diag(d) H diag(d)."""
        like, need = objective.gradient, self.need
        top = min(need.top, objective.size)
        if not sound:
            empty = np.full(top, np.nan)
            return Eigenpairs(empty, empty, np.zeros(top, np.bool_), like[None][:0], 0)
        source = torch.Generator(like.device).manual_seed(0)
        start = torch.randn(
            objective.size, generator=source, dtype=torch.float64, device=like.device
        )

        def scaled(vector: torch.Tensor) -> torch.Tensor:
            return vector if scale is None else scale * vector

        return top_eigenpairs(
            lambda vector: scaled(objective.product(scaled(vector))),
            start,
            top=need.top,
            tolerance=need.tolerance,
            iterations=need.iterations,
            capacity=self.capacity,
        )

    def _scale(self, adam: Preconditioner, step: int) -> torch.Tensor:
        """P^{-1/2} as one vector."""
        view = self.trajectory[adam.slot]
        parts = [view[n].at(step).astype(np.float64).reshape(-1) for n in self.selected]
        first, second = (1 - beta**step for beta in adam.betas)
        spread = first * (np.sqrt(np.concatenate(parts) / second) + adam.eps)
        return torch.from_numpy(1 / np.sqrt(spread)).to(self.loss.device)

    def _check(self, objective: Objective) -> None:
        """Look at the loss once, at the first snapshot."""
        self.unused = objective.unused
        first, second = objective.value, objective.again()
        if math.isfinite(first):
            objective.product(objective.gradient)
            choose_threads(lambda: objective.product(objective.gradient))
        if math.isfinite(first) and abs(first - second) > _REPEATABLE * max(abs(first), 1e-30):
            raise UsageError(
                f"--replay {self.loss.name}: the loss at one point was {first:.9g} and then "
                f"{second:.9g}; it must be the same each time: no dropout, no shuffled or "
                "augmented batches, BatchNorm that keeps no running averages"
            )

    def result(self) -> Replayed:
        """All that was measured, in order of steps."""
        seen = sorted(self.seen, key=lambda one: one.step)
        width = len(seen[0].plain.values) if seen else self.need.top
        other = [one.preconditioned for one in seen if one.preconditioned is not None]
        return Replayed(
            source=self.loss.name,
            steps=np.array([one.step for one in seen], np.int64),
            loss=np.array([one.loss for one in seen]),
            gradient_norm=np.array([one.gradient_norm for one in seen]),
            eigenvalues=np.array([one.plain.values for one in seen]).reshape(-1, width),
            residuals=np.array([one.plain.residuals for one in seen]).reshape(-1, width),
            trace=np.array([one.trace.value for one in seen]),
            trace_error=np.array([one.trace.error for one in seen]),
            preconditioned=_stacked([pairs.values for pairs in other], len(seen)),
            preconditioned_residuals=_stacked([pairs.residuals for pairs in other], len(seen)),
            converged=np.array([one.plain.converged[0] for one in seen], np.bool_),
            preconditioned_converged=np.array(
                [pairs.converged[0] for pairs in other] or [False] * len(seen), np.bool_
            ),
            products=self.products,
            dtypes=self.dtypes,
            unused=self.unused,
        )


def _stacked(rows: list[NDArray[np.float64]], count: int) -> NDArray[np.float64]:
    return np.array(rows) if rows else np.zeros((count, 0))
