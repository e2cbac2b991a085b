"""The Lightning callback against what a module recorded by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trajfile
from tests.frameworks import Later, framework
from tests.recorders.by_hand import Rows, arrays, batch, check_recorded, net
from tests.recorders.snippets import run_snippet
from trajfile.recorders import Schedule

lightning = Later("lightning.pytorch")

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own advice

SCHEDULE = Schedule(params=1, gradients=1, updates=1, optimizer=1)


class Kept:
    """Keeps what a recorder should see, in Lightning's own hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.rows: Rows = {}
        self.losses: list[float] = []
        self.made = 0

    def training_step(self, index: torch.Tensor, _: int) -> torch.Tensor:
        inputs, labels = batch(int(index))
        loss = nn.functional.cross_entropy(self.net(inputs), labels)
        self.losses.append(loss.item())
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        named = dict(self.named_parameters())
        keep = self.rows.setdefault
        keep("params", {})[self.made] = arrays(named)
        keep("gradients", {})[self.made] = arrays({n: p.grad for n, p in named.items()})
        self.before = {n: p.detach().clone() for n, p in named.items()}
        for slot in ("exp_avg", "exp_avg_sq") if self.made else ():
            held = {n: optimizer.state[p][slot] for n, p in named.items()}
            keep(f"optimizer/{slot}", {})[self.made] = arrays(held)

    def on_before_zero_grad(self, _: Any) -> None:
        if not hasattr(self, "before"):
            return
        named = dict(self.named_parameters())
        moved = {n: (self.before[n] - p.detach()) / 0.01 for n, p in named.items()}
        self.rows.setdefault("updates", {})[self.made] = arrays(moved)
        self.made += 1
        del self.before

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def made() -> Any:
    """A module that does so; its class is made here, for then Lightning is imported."""

    class Module(Kept, lightning.LightningModule):
        pass

    return Module()


def fit(folder: Path, **options: Any) -> Any:
    from trajfile.recorders.lightning import Recorder

    module = made()
    recorder = Recorder(folder / "run.h5", SCHEDULE, batch_size=16, on_error="raise")
    trainer = lightning.Trainer(
        max_epochs=1,
        callbacks=[recorder],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    data = torch.utils.data.DataLoader(torch.arange(6), batch_size=None)
    trainer.fit(module, data)
    assert trainer.global_step == recorder.recorder.step
    # The updates of the last step have no zero_grad after them.
    named = dict(module.named_parameters())
    if hasattr(module, "before"):
        moved = {n: (module.before[n] - p.detach()) / 0.01 for n, p in named.items()}
        module.rows["updates"][module.made] = arrays(moved)
    return module


@pytest.mark.parametrize(
    ("options", "applied"),
    [
        ({}, None),
        ({"gradient_clip_val": 0.05}, "clipped"),
        ({"accumulate_grad_batches": 2}, None),
    ],
    ids=["plain", "clipped", "accumulated"],
)
def test_lightning(options: dict[str, Any], applied: str | None, tmp_path: Path) -> None:
    module = fit(tmp_path, **options)
    check_recorded(tmp_path / "run.h5", module.rows)
    with trajfile.open(tmp_path / "run.h5") as run:
        stated = run.manifest.gradient
        assert (stated["stage"], stated.get("applied")) == ("raw", applied)
        assert run.manifest.optimizer["name"] == "AdamW"
        losses = run.scalars["loss"][1].tolist()
        assert run.scalars["learning_rate"][1].tolist() == [0.01] * len(losses)
    micro = options.get("accumulate_grad_batches", 1)
    told = module.losses
    assert losses == [sum(told[i : i + micro]) / micro for i in range(0, len(told), micro)]


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    batches = torch.utils.data.DataLoader(torch.arange(6), batch_size=None)
    given = {"lightning": framework("lightning"), "module": made(), "batches": batches}
    run_snippet("Lightning", given)
    with trajfile.open("run.h5") as recorded:
        assert recorded.steps("gradients").tolist() == [0, 1, 2]
