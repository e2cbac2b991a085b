"""What recording costs a training: step times of a bare loop, of a recorded one, of torch.save.

    python tests/bench/recording.py [--parameters 10000000] [--rounds 4]
    python tests/bench/recording.py --device cuda --batch 16384

A network of about ten million parameters trains, a step taking tens of milliseconds (on a fast card
by a large batch). The same loop
runs bare, recorded at preset ``standard`` in the background, and saving with torch.save what the
recorder takes at the same steps. The three alternate, a hundred steps each, so that a machine that
others use too treats them alike; a round is five hundred steps of each, in which every cadence of
the preset but the rarest comes up. Prints the mean step time, what it exceeds the bare loop by, the
longest step, the bytes written, and the most that the recorder's queue held; exits with 1 if the
recorder costs more than the goal of 5 %.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import trajfile
from trajfile.background import Committer
from trajfile.recorders import Schedule, preset
from trajfile.recorders.torch import Recorder

GOAL = 0.05
PIECE = 100


class Training:
    """A training of its own network, that goes on piece by piece."""

    def __init__(self, parameters: int, batch: int, device: str):
        torch.manual_seed(0)
        self.device = device
        width = int((parameters / 4) ** 0.5)
        layers = [nn.Linear(width, width) for _ in range(4)]
        self.model = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
        self.model.to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.inputs = torch.randn(batch, width, device=device)
        self.step = 0

    def piece(self, each: Callable[[int, torch.Tensor], None]) -> list[float]:
        """Train for a piece; seconds of each step."""
        seconds = []
        for _ in range(PIECE):
            start = time.perf_counter()
            loss = (self.model(self.inputs) - self.inputs).square().mean()
            loss.backward()
            each(self.step, loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            if self.device != "cpu":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return seconds


class Watched(Committer):
    """The recorder's queue, with a note of the most it held and of how long training waited."""

    most = 0
    waited = 0.0

    def put(self, nbytes: int, pack: object) -> None:
        start = time.perf_counter()
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or self._held == 0 or self._held + nbytes <= self._limit
            )
        Watched.waited += time.perf_counter() - start
        super().put(nbytes, pack)
        with self._changed:
            Watched.most = max(Watched.most, self._held)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=4, help="of 500 steps of each loop")
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--threads", type=int, help="of PyTorch; all cores by default")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    trajfile.committing.Committer = Watched
    schedule = preset(options.preset).without("gradient_samples")
    bare, recorded, saved = (
        Training(options.parameters, options.batch, options.device) for _ in range(3)
    )
    sizes = {n: p.nbytes for n, p in bare.model.named_parameters()}
    print(schedule.describe(sizes, 5 * PIECE * options.rounds, slots=1))
    for warm in (bare, recorded, saved):
        warm.piece(lambda step, loss: None)
        warm.step = 0
    times: dict[str, list[list[float]]] = {"bare": [], "recorded": [], "torch.save": []}
    with tempfile.TemporaryDirectory() as folder:
        with Recorder(
            recorded.model, recorded.optimizer, Path(folder) / "run.h5", schedule, on_error="raise"
        ) as recorder:
            for _ in range(5 * options.rounds):
                times["bare"].append(bare.piece(lambda step, loss: None))
                times["recorded"].append(
                    recorded.piece(lambda _, loss: recorder.observe(loss=loss))
                )
                times["torch.save"].append(saved.piece(saver(saved, schedule, Path(folder))))
                print(
                    ", ".join(
                        f"{k} {1e3 * statistics.mean(v[-1]):.1f} ms" for k, v in times.items()
                    )
                )
        size = (Path(folder) / "run.h5").stat().st_size
        files = sum(path.stat().st_size for path in Path(folder).glob("*.pt"))
    base = statistics.mean(statistics.mean(piece) for piece in times["bare"])
    for name, pieces in times.items():
        mean = statistics.mean(statistics.mean(piece) for piece in pieces)
        longest = max(second for piece in pieces for second in piece)
        print(
            f"{name:<11} {1e3 * mean:6.2f} ms a step ({100 * (mean / base - 1):+.1f} %), longest "
            f"step {1e3 * longest:.0f} ms"
        )
    print(
        f"run.h5 {size / 2**20:.0f} MiB, .pt files {files / 2**20:.0f} MiB; the queue held at most "
        f"{Watched.most / 2**20:.0f} MiB and training waited for it {Watched.waited:.2f} s"
    )
    cost = statistics.mean(statistics.mean(piece) for piece in times["recorded"]) / base - 1
    return 0 if cost <= GOAL else 1


def saver(
    training: Training, schedule: Schedule, folder: Path
) -> Callable[[int, torch.Tensor], None]:
    """Save with torch.save what the recorder would take, when it would."""

    def save(step: int, loss: torch.Tensor) -> None:
        due = {s for s, rule in schedule.streams.items() if rule.when.due(step)} - {"scalars"}
        if not due:
            return
        held: dict[str, object] = {"loss": loss.item()}
        if "params" in due:
            held["params"] = training.model.state_dict()
        if "gradients" in due:
            held["gradients"] = {n: p.grad for n, p in training.model.named_parameters()}
        if "optimizer" in due:
            held["optimizer"] = training.optimizer.state_dict()
        torch.save(held, folder / f"{step}.pt")

    return save


if __name__ == "__main__":
    sys.exit(main())
