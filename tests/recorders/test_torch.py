"""The PyTorch recorder, held against loops that were recorded by hand."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import trajfile
from tests.recorders.by_hand import Loop, batch, check_recorded, net, state_of
from tests.trainings import Lion
from trajfile.recorders import RecordingWarning, Schedule
from trajfile.recorders.torch import Recorder

FULL = Schedule(params=1, gradients=1, updates=1, optimizer=1)

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "lion": lambda p: Lion(p, lr=0.01),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "muon-like groups": lambda p: torch.optim.SGD(
        [
            {"params": [q for q in p if q.ndim > 1], "lr": 0.1, "weight_decay": 0.1},
            {"params": [q for q in p if q.ndim < 2], "lr": 0.02},
        ],
        momentum=0.5,
    ),
}


def attach(loop: Loop, recorder: Recorder) -> None:
    loop.observe = recorder.observe
    loop.taken = recorder.take_gradients


@pytest.mark.parametrize("which", OPTIMIZERS)
def test_every_optimizer_bit_for_bit(which: str, tmp_path: Path) -> None:
    model = net()
    optimizer = OPTIMIZERS[which](list(model.parameters()))
    loop = Loop(model, optimizer)
    path = tmp_path / "run.h5"
    with Recorder(model, optimizer, path, FULL, batch_size=16, on_error="raise") as recorder:
        attach(loop, recorder)
        loop.run(6)
    check_recorded(path, loop.rows)
    with trajfile.open(path) as run:
        steps, losses = run.scalars["loss"]
        assert dict(zip(steps.tolist(), losses.tolist(), strict=True)) == loop.scalars["loss"]
        stated = run.manifest
        assert stated.optimizer["name"] == type(optimizer).__name__
        assert stated.gradient == {"stage": "raw", "source": "mini_batch", "batch_size": 16}
        if which == "muon-like groups":
            rates = [group["lr"] for group in optimizer.param_groups]
            assert [run.scalars[f"learning_rate.{i}"][1][0] for i in range(2)] == rates
            assert stated.optimizer["weight_decay"] == 0.1
            assert stated.optimizer["param_groups"][1]["tensors"] == [
                n for n, p in model.named_parameters() if p.ndim < 2
            ]


def recorded(
    tmp_path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, loop: Loop, **options: Any
) -> Path:
    """Run a loop of six steps under a recorder that takes everything."""
    path = tmp_path / "run.h5"
    given = {"schedule": FULL, "on_error": "raise"} | options
    with Recorder(model, optimizer, path, **given) as recorder:
        attach(loop, recorder)
        loop.run(6)
    return path


def stage(path: Path) -> tuple[Any, Any]:
    with trajfile.open(path) as run:
        return run.manifest.gradient.get("stage"), run.manifest.gradient.get("applied")


def test_accumulated_gradients_are_one_step_with_the_mean_loss(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = Loop(model, optimizer, micro=3)
    path = recorded(tmp_path, model, optimizer, loop)
    check_recorded(path, loop.rows)
    assert stage(path) == ("raw", None)
    with trajfile.open(path) as run:
        steps, losses = run.scalars["loss"]
        assert dict(zip(steps.tolist(), losses.tolist(), strict=True)) == loop.scalars["loss"]


def test_clipping_is_noticed(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = Loop(model, optimizer, clip=0.1)
    with pytest.warns(RecordingWarning, match="recorded as clipped"):
        path = recorded(tmp_path, model, optimizer, loop)
    check_recorded(path, loop.rows)
    assert stage(path) == ("clipped", None)


def test_raw_gradients_before_clipping(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = Loop(model, optimizer, clip=0.1, raw=True)
    path = recorded(tmp_path, model, optimizer, loop)
    check_recorded(path, loop.rows)
    assert stage(path) == ("raw", "clipped")


def test_clipping_that_begins_later_is_told(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = Loop(model, optimizer)

    def clip_from_three(step: int) -> None:
        loop.clip = 0.1 if step >= 3 else None

    loop.before_step = clip_from_three
    with pytest.warns(RecordingWarning, match="from step 3 on"):
        recorded(tmp_path, model, optimizer, loop)


@pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])
@pytest.mark.parametrize("clip", [None, 0.1], ids=["unclipped", "clipped"])
def test_gradscaler_skips_and_unscales(fused: bool, clip: float | None, tmp_path: Path) -> None:
    """Overflows at attempts 2 and 3: those are no steps; gradients are recorded unscaled."""
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    named = dict(model.named_parameters())
    kept: dict[str, dict[int, dict[str, np.ndarray]]] = {"params": {}, "gradients": {}}
    losses, made, scales = {}, 0, []
    path = tmp_path / "run.h5"
    schedule = Schedule(params=1, gradients=1)
    told = pytest.warns(RecordingWarning, match="as clipped") if clip else contextlib.nullcontext()
    with (
        told,
        Recorder(model, optimizer, path, schedule, scaler=scaler, on_error="raise") as recorder,
    ):
        for attempt in range(8):
            inputs, labels = batch(attempt)
            if attempt in {2, 3}:
                inputs = inputs * float("inf")
            loss = nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            recorder.observe(loss=loss)
            inverse = torch.tensor(scaler.get_scale()).double().reciprocal().float()
            expected = {name: (p.grad * inverse) for name, p in named.items()}
            if clip is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), clip)
                expected = {name: p.grad.clone() for name, p in named.items()}
            before = {name: p.detach().clone() for name, p in named.items()}
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            if attempt in {2, 3}:
                assert all(torch.equal(before[n], p) for n, p in named.items())
                continue
            kept["params"][made] = {name: value.numpy() for name, value in before.items()}
            kept["gradients"][made] = {name: value.numpy() for name, value in expected.items()}
            losses[made] = loss.item()
            scales.append(scale)
            made += 1
    check_recorded(path, kept)
    assert stage(path)[0] == ("raw" if clip is None else "clipped")
    with trajfile.open(path) as run:
        assert run.scalars["loss"][1].tolist() == list(losses.values())
        assert run.scalars["loss_scale"][1].tolist() == scales
        assert run.scalars["skipped_steps"][1].tolist() == [0, 0, 2, 2, 2, 2]
        steps = run.scalars["learning_rate"][0]
    assert steps.tolist() == list(range(6))


def test_fused_optimizer_is_seen_through_without_the_scaler(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    with Recorder(model, optimizer, tmp_path / "run.h5", FULL, on_error="raise") as recorder:
        for attempt in range(4):
            inputs, labels = batch(attempt)
            loss = nn.functional.cross_entropy(model(inputs), labels)
            scaler.scale(loss * (float("nan") if attempt == 1 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert recorder.step == 3
    with trajfile.open(tmp_path / "run.h5") as run:
        assert run.manifest.gradient["stage"] == "raw"
        assert np.abs(run["gradients"]["0.weight"][:]).max() < 10
        assert run.scalars["skipped_steps"][1].tolist() == [0, 1, 1]


def test_closures_and_lbfgs(tmp_path: Path) -> None:
    """The gradient is that of the closure's first call, at the params before the update."""
    model = nn.Linear(6, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
    named = dict(model.named_parameters())
    kept: dict[str, Any] = {"params": {}, "gradients": {}}
    first: list[dict[str, np.ndarray]] = []
    with Recorder(
        model, optimizer, tmp_path / "run.h5", Schedule(params=1, gradients=1), on_error="raise"
    ):
        for step in range(3):
            inputs, labels = batch(step)

            def closure() -> torch.Tensor:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(inputs), labels)  # noqa: B023
                loss.backward()
                first.append({n: p.grad.clone().numpy() for n, p in named.items()})
                return loss

            kept["params"][step] = {n: p.detach().clone().numpy() for n, p in named.items()}
            first.clear()
            optimizer.step(closure)
            kept["gradients"][step] = first[0]
    check_recorded(tmp_path / "run.h5", kept)
    with trajfile.open(tmp_path / "run.h5") as run:
        assert len(run.scalars["loss"][1]) == 3


def test_tied_weights_once_and_buffers_never(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.outside = nn.Linear(6, 6), nn.Linear(6, 6)
            self.outside.weight = self.inside.weight
            self.register_buffer("mask", torch.ones(6, dtype=torch.bool))
            self.register_buffer("count", torch.zeros((), dtype=torch.int64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.outside(torch.relu(self.inside(x) * self.mask))[:, :3]

    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = Loop(model, optimizer)
    path = recorded(tmp_path, model, optimizer, loop)
    check_recorded(path, loop.rows)
    with trajfile.open(path) as run:
        assert set(run.tensors("params")) == {"inside.weight", "inside.bias", "outside.bias"}
        assert run.manifest.metadata["tied"] == {"outside.weight": "inside.weight"}


def test_frozen_unfrozen_and_frozen_again(tmp_path: Path) -> None:
    """Unfrozen tensors join the gradients and the state; frozen again, their gradient is zero."""
    model = net()
    for p in model[0].parameters():
        p.requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loop = Loop(model, optimizer)

    def thaw(step: int) -> None:
        for p in model[0].parameters():
            p.requires_grad_(2 <= step < 4)

    loop.before_step = thaw
    path = recorded(tmp_path, model, optimizer, loop)
    for step in (4, 5):
        for name in ("0.weight", "0.bias"):
            shape = dict(model.named_parameters())[name].shape
            loop.rows["gradients"][step][name] = np.zeros(shape, np.float32)
    check_recorded(path, loop.rows)
    with trajfile.open(path) as run:
        assert run.tensors("gradients")["0.weight"].first_row == 2
        assert run.tensors("optimizer/exp_avg")["0.weight"].first_row == 2  # row 2 is step 3


def test_a_frozen_backbone_added_to_the_optimizer_later(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model[4].parameters(), lr=0.1, momentum=0.9)
    loop = Loop(model, optimizer)

    def add(step: int) -> None:
        if step == 3:
            optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.05})

    loop.before_step = add
    path = recorded(tmp_path, model, optimizer, loop, schedule=Schedule(params=1, optimizer=1))
    check_recorded(
        path, {k: v for k, v in loop.rows.items() if k in {"params", "optimizer/momentum_buffer"}}
    )


def test_nan_and_infinite_gradients_are_recorded_as_they_are(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = Loop(model, optimizer)

    def poison(step: int) -> None:
        if step == 3:
            with torch.no_grad():
                model[4].weight[0, 0] = float("nan")
                model[4].weight[1, 0] = float("inf")

    loop.before_step = poison
    check_recorded(recorded(tmp_path, model, optimizer, loop), loop.rows)
    report = trajfile.analyze(tmp_path / "run.h5", metrics=["norms"], device="cpu")
    assert report.metrics["norms"].summary["non_finite_step"] == 3


def test_sparse_and_low_precision(tmp_path: Path) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(20, 4, sparse=True)
            self.head = nn.Linear(4, 3, dtype=torch.bfloat16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(x.abs().long() % 20).mean(1).bfloat16()).float()

    model = Words()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path = tmp_path / "run.h5"
    expected = []
    with Recorder(model, optimizer, path, Schedule(params=1, gradients=1), on_error="raise"):
        for step in range(3):
            inputs, labels = batch(step)
            nn.functional.cross_entropy(model(10 * inputs), labels).backward()
            expected.append(
                (model.table.weight.grad.to_dense().clone(), model.head.weight.grad.clone())
            )
            optimizer.step()
            optimizer.zero_grad()
    with trajfile.open(path) as run:
        for index, (table, head) in enumerate(expected):
            assert np.array_equal(run["gradients"]["table.weight"][index], table.numpy())
            found = np.asarray(run["gradients"]["head.weight"][index])
            assert found.dtype == "bfloat16"
            assert np.array_equal(found.view(np.int16), head.view(torch.int16).numpy())


@pytest.mark.parametrize("sampled", [False, True], ids=["plain", "with gradient samples"])
def test_training_is_bit_equal_with_and_without_recording(sampled: bool, tmp_path: Path) -> None:
    """Dropout, BatchNorm statistics, random states, momentum: nothing notices."""

    def train(path: Path | None) -> dict[str, Any]:
        torch.manual_seed(7), random.seed(7), np.random.seed(7)  # noqa: NPY002
        model = net(7)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        loop = Loop(model, optimizer, micro=2)
        if path is None:
            loop.run(12)
        else:
            sample_loss = None
            if sampled:

                def sample_loss(index: int) -> torch.Tensor:
                    random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
                    inputs, labels = batch(500, index)
                    return nn.functional.cross_entropy(model(inputs), labels)

            schedule = Schedule(
                params=1,
                gradients=2,
                updates="at 0, 3",
                optimizer=3,
                gradient_samples="every 5" if sampled else None,
                samples=3,
            )
            with Recorder(
                model, optimizer, path, schedule, sample_loss=sample_loss, on_error="raise"
            ) as recorder:
                attach(loop, recorder)
                loop.run(12)
        return state_of(model, optimizer) | {
            "python": random.getstate(),
            "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
            "losses": list(loop.scalars["loss"].values()),
        }

    without, recording = train(None), train(tmp_path / "run.h5")
    assert without["losses"] == recording["losses"]
    assert without["python"] == recording["python"]
    assert without["numpy"] == recording["numpy"]
    assert torch.equal(without["rng"], recording["rng"])
    for name, value in without["model"].items():
        assert torch.equal(value, recording["model"][name]), name
    for left, right in zip(without["optimizer"], recording["optimizer"], strict=True):
        assert all(torch.equal(left[key], right[key]) for key in left)


def test_gradient_samples_are_those_of_the_losses(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    named = dict(model.named_parameters())
    drawn: list[dict[str, np.ndarray]] = []

    def sample_loss(index: int) -> torch.Tensor:
        inputs, labels = batch(77, index)
        return nn.functional.cross_entropy(model(inputs), labels)

    def by_hand(step: int) -> None:
        if step % 2 == 0:
            rows = [torch.autograd.grad(sample_loss(i), list(named.values())) for i in range(4)]
            drawn.append(
                {
                    n: torch.stack(column).numpy()
                    for n, column in zip(named, zip(*rows, strict=True), strict=True)
                }
            )

    loop = Loop(model, optimizer, before_step=by_hand)
    schedule = Schedule(params=2, gradient_samples=2, samples=4)
    path = recorded(tmp_path, model, optimizer, loop, schedule=schedule, sample_loss=sample_loss)
    with trajfile.open(path) as run:
        assert run.steps("gradient_samples").tolist() == [0] * 4 + [2] * 4 + [4] * 4
        for index, expected in enumerate(drawn):
            for name, value in expected.items():
                rows = run["gradient_samples"][name][4 * index : 4 * index + 4]
                assert np.array_equal(rows, value)
    report = trajfile.analyze(path, metrics=["gradient_noise"], device="cpu")
    assert report.metrics["gradient_noise"].status == "ok"


def test_bursts_on_a_spike_of_the_loss(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    path = tmp_path / "run.h5"
    schedule = Schedule(params="at 0 + 3 on spike 2", scalars=1)
    with Recorder(model, optimizer, path, schedule, on_error="raise") as recorder:
        for step in range(30):
            inputs, labels = batch(step)
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            recorder.observe(loss=loss * (10 if step in {12, 20} else 1))
            if step == 25:
                recorder.burst(2)
            optimizer.step()
    with trajfile.open(path) as run:
        assert run.steps("params").tolist() == [0, 12, 13, 14, 20, 21, 22, 25, 26]
        assert run.scalars["loss"][0].tolist() == list(range(30))


def test_globs_choose_tensors(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loop = Loop(model, optimizer)
    schedule = Schedule(
        params="every 1 of *.weight, !1.*", gradients="every 2 of 4.*", optimizer="every 3 of 0.*"
    )
    path = recorded(tmp_path, model, optimizer, loop, schedule=schedule)
    with trajfile.open(path) as run:
        assert set(run.tensors("params")) == {"0.weight", "4.weight"}
        assert set(run.tensors("gradients")) == {"4.weight"}
        assert {n for n, t in run.tensors("optimizer/exp_avg").items() if t.first_row == 0} == {
            "0.weight"
        }


def test_resuming(tmp_path: Path) -> None:
    """Two recordings of one training, the second with mode='a', are one trajectory."""
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loop = Loop(model, optimizer)
    path = tmp_path / "run.h5"
    with Recorder(model, optimizer, path, FULL, on_error="raise") as recorder:
        attach(loop, recorder)
        loop.run(3)
        at = recorder.step
    later = Loop(model, optimizer)
    with Recorder(
        model, optimizer, path, FULL, mode="a", first_step=at, on_error="raise"
    ) as recorder:
        attach(later, recorder)
        later.run(3)
    for stream, rows in later.rows.items():
        loop.rows[stream] |= {step + 3: row for step, row in rows.items()}
    check_recorded(path, loop.rows)


class TestBadInput:
    def test_optimizer_of_another_model(self, tmp_path: Path) -> None:
        optimizer = torch.optim.SGD(net(1).parameters(), lr=0.1)
        with pytest.raises(trajfile.UsageError, match=r"6 of the 6 tensors .* not parameters"):
            Recorder(net(), optimizer, tmp_path / "run.h5")

    def test_names_that_collide(self, tmp_path: Path) -> None:
        holder = nn.Module()
        holder._checkpoint_wrapped_module = nn.Linear(2, 2)
        holder.weight = nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD(holder.parameters(), lr=0.1)
        with pytest.raises(trajfile.UsageError, match="come to the name 'weight'"):
            Recorder(holder, optimizer, tmp_path / "run.h5")

    def test_globs_without_tensors(self, tmp_path: Path) -> None:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        schedule = Schedule(params="every 1 of *.kernel")
        with pytest.raises(trajfile.UsageError, match=r"'\*.kernel', which no tensor matches"):
            Recorder(model, optimizer, tmp_path / "run.h5", schedule)

    def test_a_path_that_is_taken(self, tmp_path: Path) -> None:
        (tmp_path / "run.h5").write_text("mine")
        model = net()
        with pytest.raises(trajfile.UsageError, match="exists already"):
            Recorder(model, torch.optim.SGD(model.parameters()), tmp_path / "run.h5")

    def test_samples_without_a_loss(self, tmp_path: Path) -> None:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(trajfile.UsageError, match="pass sample_loss"):
            Recorder(model, optimizer, tmp_path / "run.h5", Schedule(params=1, gradient_samples=1))
        with pytest.raises(trajfile.UsageError, match="draws no gradient_samples"):
            Recorder(model, optimizer, tmp_path / "run.h5", "minimal", sample_loss=lambda i: None)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: setattr(m, "4", nn.Linear(8, 4)), "is torch.float32 of shape"),
            (lambda m: delattr(m, "1"), "parameter '1.weight' is gone"),
            (lambda m: m.double(), "expected torch.float32"),
        ],
        ids=["another shape", "gone", "another dtype"],
    )
    def test_a_model_changed_in_mid_run(self, change: Any, message: str, tmp_path: Path) -> None:
        """Recording stops and says why, training does not; what was recorded stays."""
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        path = tmp_path / "run.h5"
        recorder = Recorder(model, optimizer, path, FULL)
        loop = Loop(model, optimizer)
        loop.run(3)
        change(model)
        after = dict(model.named_parameters())
        optimizer.param_groups[0]["params"] = list(after.values())
        with pytest.warns(RecordingWarning, match=message):
            optimizer.step()
        optimizer.step()
        assert not recorder.recording
        recorder.close()
        check_recorded(path, loop.rows)

    def test_on_error_raise(self, tmp_path: Path) -> None:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Recorder(model, optimizer, tmp_path / "run.h5", FULL, on_error="raise"):
            Loop(model, optimizer).run(2)
            model.double()
            with pytest.raises(trajfile.UsageError, match="changed in mid-run"):
                optimizer.step()

    def test_a_loss_that_is_no_number(self, tmp_path: Path) -> None:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Recorder(model, optimizer, tmp_path / "run.h5", FULL) as recorder:
            recorder.observe(loss=torch.ones(3))
            with pytest.warns(RecordingWarning, match="training goes on"):
                optimizer.step()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_model(tmp_path: Path) -> None:
    model = net()
    compiled = torch.compile(model)
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.1)
    named = dict(model.named_parameters())
    kept: dict[str, Any] = {"params": {}, "gradients": {}}
    path = tmp_path / "run.h5"
    with Recorder(compiled, optimizer, path, Schedule(params=1, gradients=1), on_error="raise"):
        for step in range(4):
            inputs, labels = batch(step)
            nn.functional.cross_entropy(compiled(inputs), labels).backward()
            kept["params"][step] = {n: p.detach().clone().numpy() for n, p in named.items()}
            kept["gradients"][step] = {n: p.grad.clone().numpy() for n, p in named.items()}
            optimizer.step()
            optimizer.zero_grad()
    check_recorded(path, kept)
    assert stage(path) == ("raw", None)
