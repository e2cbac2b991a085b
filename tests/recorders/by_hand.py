"""A training recorded by hand, step by step, to hold the recorders against."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import trajfile

Rows = dict[str, dict[int, dict[str, np.ndarray]]]


def net(seed: int = 0) -> nn.Module:
    """A small network with everything that could be disturbed: dropout and BatchNorm."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)
    )


def batch(step: int, part: int = 0, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """The mini-batch of a step, the same whoever asks."""
    generator = torch.Generator().manual_seed(1000 * step + part)
    inputs = torch.randn(size, 6, generator=generator)
    return inputs, (inputs[:, :3] + inputs[:, 3:]).argmax(1)


def arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Copies as NumPy arrays."""
    return {name: tensor.detach().clone().numpy() for name, tensor in tensors.items()}


@dataclass
class Loop:
    """A plain loop that keeps, at every step, what a recorder should have seen.

    Attributes:
        rows: By stream and step; ``optimizer/<slot>`` for slots.
        scalars: By name and step.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    clip: float | None = None
    micro: int = 1
    raw: bool = False
    rows: Rows = field(default_factory=dict)
    scalars: dict[str, dict[int, float]] = field(default_factory=dict)
    before_step: Callable[[int], None] = lambda step: None
    observe: Callable[..., None] = lambda **scalars: None
    taken: Callable[[], None] = lambda: None

    def keep(self, stream: str, step: int, tensors: Mapping[str, torch.Tensor]) -> None:
        if tensors:
            self.rows.setdefault(stream, {})[step] = arrays(tensors)

    def run(self, steps: int) -> Loop:
        named = dict(self.model.named_parameters())
        rate = {id(p): g["lr"] for g in self.optimizer.param_groups for p in g["params"]}
        for step in range(steps):
            self.before_step(step)
            losses = []
            for part in range(self.micro):
                inputs, labels = batch(step, part)
                loss = nn.functional.cross_entropy(self.model(inputs), labels)
                losses.append(loss.item())
                (loss / self.micro).backward()
                self.observe(loss=loss)
            if self.raw:
                self.keep("gradients", step, self.gradients(named))
                self.taken()
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            if not self.raw:
                self.keep("gradients", step, self.gradients(named))
            self.keep("params", step, named)
            for slot in {s for p in named.values() for s in self.optimizer.state.get(p, {})}:
                held = {n: self.optimizer.state.get(p, {}).get(slot) for n, p in named.items()}
                held = {n: v for n, v in held.items() if isinstance(v, torch.Tensor) and v.ndim}
                self.keep(f"optimizer/{slot}", step, held)
            before = {name: p.detach().clone() for name, p in named.items()}
            self.optimizer.step()
            self.keep(
                "updates",
                step,
                {
                    name: (before[name] - p.detach()) / rate[id(p)]
                    for name, p in named.items()
                    if id(p) in rate
                },
            )
            self.optimizer.zero_grad()
            self.scalars.setdefault("loss", {})[step] = (
                losses[0] if len(losses) == 1 else sum(losses) / len(losses)
            )
        return self

    @staticmethod
    def gradients(named: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: p.grad for name, p in named.items() if p.grad is not None}


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and np.ascontiguousarray(left).tobytes() == np.ascontiguousarray(right).tobytes()
    )


def check_recorded(
    path: Path, rows: Rows, streams: set[str] | None = None, without: Collection[str] = ()
) -> None:
    """Every row of the file is that of the loop, bit for bit, and none of the loop's is missing."""
    with trajfile.open(path) as run:
        held = {stream for stream in run.streams if len(run.steps(stream))} - set(without)
        assert held == (streams or set(rows))
        for stream in held:
            assert run.steps(stream).tolist() == sorted(rows[stream])
            for index, step in enumerate(run.steps(stream)):
                expected = rows[stream][int(step)]
                first = {name: t.first_row for name, t in run.tensors(stream).items()}
                assert {name for name, row in first.items() if row <= index} == set(expected)
                for name, array in expected.items():
                    found = np.asarray(run[stream][name][index - first[name]])
                    assert same_bits(found, array), (stream, int(step), name)
    assert [str(f) for f in trajfile.validate(path) if f.severity == "error"] == []


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Everything that a recorder must leave untouched."""
    return {
        "model": {name: value.clone() for name, value in model.state_dict().items()},
        "optimizer": [
            {key: value for key, value in optimizer.state[p].items()}
            for group in optimizer.param_groups
            for p in group["params"]
        ],
        "rng": torch.random.get_rng_state(),
    }
