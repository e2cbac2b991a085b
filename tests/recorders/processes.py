"""Trainings by two processes, each started with its rank: `processes.py FOLDER RANK`.

One start of the processes does for all of them: each training has a folder of its own.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

import trajfile
from tests.recorders.by_hand import arrays, batch
from trajfile.recorders import Schedule
from trajfile.recorders.torch import Recorder

STEPS = 5
SAMPLES = 3
CPU = torch.device("cpu")


def plain(kind: str) -> nn.Module:
    """The model before it is spread; of FSDP2 with a parameter that takes no part."""
    torch.manual_seed(0)
    middle: nn.Module = nn.BatchNorm1d(7) if kind == "ddp" else nn.Tanh()
    model = nn.Sequential(nn.Linear(6, 7), middle, nn.ReLU(), nn.Linear(7, 3))
    if kind == "fsdp":
        model[0].idle = nn.Parameter(torch.ones(5))
    return model


def spread(kind: str) -> nn.Module:
    model = plain(kind)
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.fsdp import fully_shard  # a second that not every worker should spend

    for part in (model[0], model[3], model):
        fully_shard(part)
    return model


def loss_of(model: nn.Module, step: int, part: int) -> torch.Tensor:
    inputs, labels = batch(step, part=part)
    return nn.functional.cross_entropy(model(inputs), labels)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


class Training:
    """A loop that keeps by hand what a recorder is to record."""

    def __init__(self, kind: str, rank: int):
        self.rank = rank
        self.model = spread(kind)
        self.inner: nn.Module = getattr(self.model, "module", self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.kept: dict[str, np.ndarray] = {}

    def keep(self, stream: str, step: int, tensors: dict[str, torch.Tensor]) -> None:
        for name, array in arrays({n: whole(t.detach()) for n, t in tensors.items()}).items():
            self.kept[f"{stream}|{step}|{name}"] = array

    def run(self, recorder: Recorder | None = None, told: Any = lambda step, loss: loss) -> None:
        optimizer = self.optimizer
        torch.manual_seed(self.rank)
        for step in range(STEPS):
            named = dict(self.inner.named_parameters())
            loss = loss_of(self.model, step, self.rank)
            loss.backward()
            if recorder is not None:
                recorder.observe(loss=told(step, loss))
            self.keep("params", step, named)
            had = {n: p.grad for n, p in named.items() if p.grad is not None}
            self.keep("gradients", step, had)
            for slot in ("exp_avg", "exp_avg_sq") if step else ():
                held = {n: optimizer.state[p][slot] for n, p in named.items() if n in had}
                self.keep(f"optimizer/{slot}", step, held)
            before = {n: whole(p.detach()).clone() for n, p in named.items()}
            optimizer.step()
            for name, gradient in had.items():
                assert named[name].grad is gradient
            optimizer.zero_grad()
            if step % 2 == 0:
                updates = {n: (before[n] - whole(p.detach())) / 0.01 for n, p in named.items()}
                self.keep("updates", step, updates)
        for name, buffer in self.inner.named_buffers():
            self.kept[f"left|0|{name}"] = buffer.numpy()
        self.kept["left|0|random"] = torch.get_rng_state().numpy()

    def left(self) -> dict[str, np.ndarray]:
        last = {f"left|0|{n}": whole(p.detach()).numpy() for n, p in self.inner.named_parameters()}
        return {key: array for key, array in self.kept.items() if key.startswith("left")} | last


def check_refusals(training: Training, folder: Path) -> None:
    schedule = Schedule(params=1, gradients=1)
    with pytest.raises(trajfile.UsageError, match="gradient_stage"):
        Recorder(training.model, training.optimizer, folder / "run.h5", schedule)
    from torch.distributed.fsdp import FullyShardedDataParallel

    flat = FullyShardedDataParallel(nn.Linear(4, 4), use_orig_params=True, device_id=CPU)
    optimizer = torch.optim.SGD(flat.parameters(), lr=0.1)
    with pytest.raises(trajfile.UsageError, match="fully_shard instead"):
        Recorder(flat, optimizer, folder / "run.h5", Schedule(params=1))
    waiting = nn.Sequential(nn.Linear(4, 4), nn.SyncBatchNorm(4))
    optimizer = torch.optim.SGD(waiting.parameters(), lr=0.1)
    sampled = Schedule(params=1, gradient_samples=1)
    with pytest.raises(trajfile.UsageError, match="SyncBatchNorm waits for the others"):
        Recorder(waiting, optimizer, folder / "run.h5", sampled, sample_loss=lambda _: None)
    assert not (folder / "run.h5").exists()


def record(kind: str, folder: Path, rank: int) -> None:
    """What is recorded is what was kept, and recording leaves no trace."""
    folder.mkdir(exist_ok=True)
    bare = Training(kind, rank)
    bare.run()
    training = Training(kind, rank)
    check_refusals(training, folder)
    schedule = Schedule(
        params=1, gradients=1, updates=2, optimizer=1, gradient_samples=2, samples=SAMPLES
    )

    def sample_loss(index: int) -> torch.Tensor:
        torch.rand(1)
        return loss_of(training.model, 100 + index, rank)

    with Recorder(
        training.model,
        training.optimizer,
        folder / "run.h5",
        schedule,
        gradient_stage="raw",
        sample_loss=sample_loss,
        on_error="raise",
    ) as recorder:
        training.run(recorder)
        assert not list(recorder._told)  # also in a process that does not write
    check_alike(bare, training)
    if rank == 0:
        np.savez(folder / "kept.npz", **training.kept)


def check_alike(left: Training, right: Training) -> None:
    before, after = left.left(), right.left()
    assert before.keys() == after.keys()
    for key, array in before.items():
        assert array.tobytes() == after[key].tobytes(), key


def fail(folder: Path, rank: int) -> None:
    """Recording fails in one process, or in drawing: training goes on in both, as without."""
    folder.mkdir(exist_ok=True)
    bare = Training("fsdp", rank)
    bare.run()

    def no_number(step: int, loss: torch.Tensor) -> Any:
        return "no number" if step == 2 and rank == 0 else loss

    def no_graph(training: Training, index: int) -> Any:
        loss = loss_of(training.model, 100 + index, rank)
        return loss.item() if index == 1 and rank == 1 else loss

    def not_reduced(training: Training, index: int) -> Any:
        training.model.set_requires_gradient_sync(False)  # as a loop may before its next backward
        loss = loss_of(training.model, 100 + index, rank)
        loss.register_hook(lambda _: None)
        return loss

    cases: dict[str, tuple[dict[str, Any], Any, Any]] = {
        "told": ({"updates": 2}, no_number, None),
        "heard": ({"scalars": "at 0 + 2 on spike 9"}, no_number, None),
        "graph": ({"gradient_samples": "at 2"}, None, no_graph),
        "reduced": ({"gradient_samples": "at 2"}, None, not_reduced),
    }
    for name, (streams, told, drawn) in cases.items():
        training = Training("fsdp", rank)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with Recorder(
                training.model,
                training.optimizer,
                folder / f"{name}.h5",
                Schedule(params=1, **streams),
                gradient_stage="raw",
                sample_loss=None if drawn is None else lambda i, t=training, d=drawn: d(t, i),
            ) as recorder:
                training.run(recorder, told or (lambda step, loss: loss))
        if name == "reduced":  # in this loop nothing is trained from then on; so much is the user's
            continue
        check_alike(bare, training)
        (folder / f"{name}.{rank}").write_text("\n".join(str(each.message) for each in said))


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    record("ddp", folder / "ddp", rank)
    record("fsdp", folder / "fsdp", rank)
    fail(folder / "failing", rank)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # Gloo's threads outlive the group and may abort at exit
