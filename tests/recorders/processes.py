"""Trainings by two processes, each started with its rank: `processes.py ddp|fsdp FOLDER RANK`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

import trajfile
from tests.recorders.by_hand import arrays, batch
from trajfile.recorders import Schedule
from trajfile.recorders.torch import Recorder

STEPS = 5


def model_and_optimizer(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3))
    if kind == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.fsdp import fully_shard

        for part in (model[0], model[2], model):
            fully_shard(part)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def main(kind: str, folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    model, optimizer = model_and_optimizer(kind)
    inner = getattr(model, "module", model)
    schedule = Schedule(params=1, gradients=1, updates=2, optimizer=1)
    refused = False
    try:
        Recorder(model, optimizer, folder / "run.h5", schedule)
    except trajfile.UsageError as error:
        refused = "gradient_stage" in str(error)
    assert refused
    kept: dict[str, np.ndarray] = {}

    def keep(stream: str, step: int, tensors: dict[str, torch.Tensor]) -> None:
        for name, array in arrays({n: whole(t.detach()) for n, t in tensors.items()}).items():
            kept[f"{stream}|{step}|{name}"] = array

    with Recorder(
        model, optimizer, folder / "run.h5", schedule, gradient_stage="raw", on_error="raise"
    ) as recorder:
        for step in range(STEPS):
            named = dict(inner.named_parameters())
            inputs, labels = batch(step, part=rank)
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            recorder.observe(loss=loss)
            keep("params", step, named)
            keep("gradients", step, {n: p.grad for n, p in named.items()})
            for slot in ("exp_avg", "exp_avg_sq") if step else ():
                keep(
                    f"optimizer/{slot}",
                    step,
                    {n: optimizer.state[p][slot] for n, p in named.items()},
                )
            before = {n: whole(p.detach()).clone() for n, p in named.items()}
            optimizer.step()
            optimizer.zero_grad()
            if step % 2 == 0:
                keep(
                    "updates",
                    step,
                    {n: (before[n] - whole(p.detach())) / 0.01 for n, p in named.items()},
                )
    if rank == 0:
        np.savez(folder / "kept.npz", **kept)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.flush()
    os._exit(0)  # Gloo's threads outlive the group and may abort at exit
