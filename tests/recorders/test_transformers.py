"""The callback of Transformers' Trainer, and a loop around Accelerate, against rows by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trajfile
from tests.frameworks import Later
from tests.recorders.by_hand import Rows, arrays, batch, check_recorded, net
from tests.recorders.snippets import run_snippet
from trajfile.recorders import Schedule

transformers = Later("transformers", "accelerate")
accelerate = Later("accelerate")

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own advice


class Model(nn.Module):
    """As models of Transformers do, it returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.net(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Data(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        inputs, labels = batch(index, size=1)
        return {"inputs": inputs[0], "labels": labels[0]}


class Kept:
    """Keeps what a recorder should see, as a callback of the Trainer."""

    def __init__(self) -> None:
        self.rows: Rows = {}

    def on_pre_optimizer_step(self, _: Any, state: Any, __: Any, **given: Any) -> None:
        named = dict(given["model"].named_parameters())
        step, keep = state.global_step, self.rows.setdefault
        keep("params", {})[step] = arrays(named)
        keep("gradients", {})[step] = arrays({n: p.grad for n, p in named.items()})
        for slot in ("exp_avg", "exp_avg_sq") if step else ():
            held = {n: given["optimizer"].state[p][slot] for n, p in named.items()}
            keep(f"optimizer/{slot}", {})[step] = arrays(held)


@pytest.mark.parametrize("clip", [1.0, 0.0], ids=["clipped as it comes", "not clipped"])
def test_trainer(clip: float, tmp_path: Path) -> None:
    from trajfile.recorders.transformers import Recorder

    class ByHand(Kept, transformers.TrainerCallback):
        pass

    transformers.set_seed(0)
    by_hand = ByHand()
    arguments = transformers.TrainingArguments(
        str(tmp_path / "out"),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        num_train_epochs=1,
        max_grad_norm=clip,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="steps",
        logging_steps=1,
    )
    schedule = Schedule(params=1, gradients=1, optimizer=1)
    recorder = Recorder(tmp_path / "run.h5", schedule, on_error="raise")
    trainer = transformers.Trainer(
        Model(), arguments, train_dataset=Data(), callbacks=[by_hand, recorder]
    )
    trainer.train()
    assert recorder.recorder.step == trainer.state.global_step == 6
    check_recorded(tmp_path / "run.h5", by_hand.rows)
    with trajfile.open(tmp_path / "run.h5") as run:
        assert run.manifest.gradient == {
            "stage": "clipped" if clip else "raw",
            "source": "mini_batch",
            "batch_size": 8,
        }
        rates = run.scalars["learning_rate"][1]
        losses = run.scalars["loss"][1]
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert rates.tolist() == pytest.approx([entry["learning_rate"] for entry in logged])
    assert losses.tolist() == pytest.approx([float(entry["loss"]) for entry in logged], abs=2e-3)


def test_accelerate(tmp_path: Path) -> None:
    """The optimizer that `prepare` returns, accumulation and clipping by the Accelerator."""
    from trajfile.recorders.torch import Recorder

    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = net()
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.01))
    named = dict(model.named_parameters())
    rows: Rows = {"params": {}, "gradients": {}}
    path = tmp_path / "run.h5"
    with Recorder(
        model, optimizer, path, Schedule(params=1, gradients=1), on_error="raise"
    ) as recorder:
        made = 0
        for micro in range(8):
            with accelerator.accumulate(model):
                inputs, labels = batch(micro)
                loss = nn.functional.cross_entropy(model(inputs), labels)
                accelerator.backward(loss)
                recorder.observe(loss=loss)
                if accelerator.sync_gradients:
                    rows["gradients"][made] = arrays({n: p.grad for n, p in named.items()})
                    rows["params"][made] = arrays(named)
                    made += 1
                    recorder.take_gradients()
                    accelerator.clip_grad_norm_(model.parameters(), 0.05)
                optimizer.step()
                optimizer.zero_grad()
    check_recorded(path, rows)
    with trajfile.open(path) as run:
        assert (run.manifest.gradient["stage"], run.manifest.gradient["applied"]) == (
            "raw",
            "clipped",
        )


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = transformers.TrainingArguments(
        "out", use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, max_steps=6
    )
    given = {"Trainer": transformers.Trainer, "model": Model(), "data": Data()}
    run_snippet("Transformers", given | {"arguments": arguments})
    with trajfile.open("run.h5") as recorded:
        assert recorded.steps("gradients").tolist() == [0, 1, 2]
