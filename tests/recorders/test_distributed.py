"""Two processes train together: one file, as the first of them would have recorded by hand."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

import trajfile
from tests.recorders.by_hand import Rows, batch, check_recorded, same_bits
from tests.recorders.processes import SAMPLES, loss_of, plain, whole
from trajfile.recorders import Schedule
from trajfile.recorders.torch import Recorder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have recorded all their trainings."""
    folder = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.recorders.processes", str(folder), str(rank)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        told = [process.communicate(timeout=240)[0].decode() for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(told)
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the processes: with more, some sums have another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes(kind: str, trained: Path) -> None:
    rows: Rows = {}
    with np.load(trained / kind / "kept.npz") as kept:
        for key in kept:
            stream, step, name = key.split("|")
            if stream != "left":
                rows.setdefault(stream, {}).setdefault(int(step), {})[name] = kept[key]
    path = trained / kind / "run.h5"
    check_recorded(path, rows, without={"gradient_samples"})
    check_samples(path, kind, rows["params"])


def check_samples(path: Path, kind: str, params: dict[int, dict[str, np.ndarray]]) -> None:
    """As one process has them of the plain model: the mean over the processes' mini-batches.

    The sum of two floats has one order and its half is exact, so the bits are the same. With more
    processes they are those of the order in which the backend sums.
    """
    model = plain(kind)
    named = dict(model.named_parameters())
    with trajfile.open(path) as run:
        assert run.steps("gradient_samples").tolist() == np.repeat([0, 2, 4], SAMPLES).tolist()
        for place, step in enumerate((0, 2, 4)):
            with torch.no_grad():
                for name, parameter in named.items():
                    parameter.copy_(torch.from_numpy(params[step][name]))
            for index in range(SAMPLES):
                drawn = [
                    torch.autograd.grad(
                        loss_of(model, 100 + index, rank),
                        list(named.values()),
                        allow_unused=True,
                        materialize_grads=True,
                    )
                    for rank in range(1 if kind == "ddp" else 2)
                ]
                for name, *gradients in zip(named, *drawn, strict=True):
                    expected = sum(gradients) / len(gradients)
                    found = run["gradient_samples"][name][place * SAMPLES + index]
                    assert same_bits(np.asarray(found), expected.numpy()), (step, index, name)


@pytest.mark.slow
def test_a_failure_in_one_process_ends_recording_in_both_and_training_in_none(
    trained: Path,
) -> None:
    folder = trained / "failing"
    said = {
        path.name: " ".join(path.read_text().split())
        for path in folder.iterdir()
        if path.suffix in {".0", ".1"}
    }
    assert said["told.1"] == said["heard.1"] == ""
    assert "stopped at step 2" in said["told.0"]
    assert "no number" in said["heard.0"]
    assert "sample_loss(1) failed in another process, which says why" in said["graph.0"]
    assert "sample_loss(1) returned float" in said["graph.1"]
    for name, last in {"told": 1, "heard": 1, "graph": 1, "reduced": 1}.items():
        with trajfile.open(folder / f"{name}.h5") as run:
            assert run.steps("params").tolist()[-1] == last


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of this process only."""
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("kind", ["fsdp", "split"])
def test_samples_by_shards_leave_all_gradients_and_hooks_alone(kind: str, tmp_path: Path) -> None:
    """Those of the model, and of another network that the loss goes through."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    model, judge = nn.Linear(6, 4), nn.Linear(4, 3)
    reference = copy.deepcopy(model)
    mesh = init_device_mesh("cpu", (1,))
    if kind == "fsdp":
        fully_shard(model, mesh=mesh)
    else:
        weight = distribute_tensor(model.weight.detach(), mesh, [Shard(0)])
        model.weight = nn.Parameter(weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fired: list[int] = []
    for parameter in (*model.parameters(), *judge.parameters()):
        parameter.register_post_accumulate_grad_hook(lambda _: fired.append(1))

    def loss_through(model: nn.Module, index: int) -> torch.Tensor:
        inputs, labels = batch(5, index)
        if kind == "split" and model is not reference:
            inputs = distribute_tensor(inputs, mesh, [Replicate()])
            outputs = nn.functional.linear(inputs, model.weight).full_tensor() + model.bias
        else:
            outputs = model(inputs)
        return nn.functional.cross_entropy(judge(outputs), labels)

    with Recorder(
        model,
        optimizer,
        tmp_path / "run.h5",
        Schedule(params=1, gradient_samples=1, samples=2),
        gradient_stage="raw",
        sample_loss=lambda index: loss_through(model, index),
        on_error="raise",
    ):
        loss_through(model, 9).backward()
        every = [*model.parameters(), *judge.parameters()]
        before = [p.grad for p in every]
        values = [whole(g).clone() for g in before]
        assert len(fired) == len(every)
        optimizer.step()
        assert all(p.grad is g for p, g in zip(every, before, strict=True))
        assert all(torch.equal(whole(g), v) for g, v in zip(before, values, strict=True))
        assert len(fired) == len(every)
        loss_through(model, 9).backward()
        assert len(fired) == 2 * len(every)
    with trajfile.open(tmp_path / "run.h5") as run:
        for index in range(2):
            expected = torch.autograd.grad(loss_through(reference, index), reference.parameters())
            for name, gradient in zip(("weight", "bias"), expected, strict=True):
                found = np.asarray(run["gradient_samples"][name][index])
                np.testing.assert_allclose(found, gradient.numpy(), rtol=1e-6, atol=1e-7)
                assert kind == "split" or same_bits(found, gradient.numpy())
