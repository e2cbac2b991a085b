"""Made-up runs: random bits in every dtype, streams of different cadence, tensors that join."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from trajfile.containers.base import Commit, Container, Rows
from trajfile.dtypes import ITEM_SIZES, bits_dtype, numpy_dtype
from trajfile.schema import ABSENT_BITS, Manifest, StreamSpec, TensorSpec

LOSS_NAN = np.array(0x7FF0DEAD00000001, np.uint64).view(np.float64)


def stream(name: str, *tensors: tuple) -> StreamSpec:
    """A stream from (name, shape, dtype) or (name, shape, dtype, first_row)."""
    ends: dict[str, int] = {}
    specs = []
    for tensor_name, shape, dtype, *first_row in tensors:
        spec = TensorSpec(tensor_name, shape, dtype, ends.get(dtype, 0), *first_row)
        ends[dtype] = spec.offset + spec.size
        specs.append(spec)
    return StreamSpec(name, tuple(specs))


def random_rows(spec: StreamSpec, rng: np.random.Generator, samples: int | None = None) -> Rows:
    """Random bits in every lane: NaN payloads, infinities, subnormals and negative zeros."""
    count = 1 if samples is None else samples
    lanes = {
        lane: rng.integers(0, 256, (count, columns * ITEM_SIZES[lane]), np.uint8)
        .view(bits_dtype(lane))
        .view(numpy_dtype(lane))
        for lane, columns in spec.lanes.items()
    }
    return Rows(lanes, None if samples is None else np.arange(samples, dtype=np.int32))


EVERY_DTYPE = Manifest(
    streams=(
        stream("params", *((f"p.{dtype}", (3, 5), dtype) for dtype in ITEM_SIZES)),
        stream(
            "gradients",
            ("w", (4,), "float32"),
            ("scalar", (), "float32"),
            ("none", (0, 3), "float32"),
        ),
        stream("gradient_samples", ("w", (4,), "bfloat16")),
        stream("optimizer/exp_avg", ("w", (7,), "float64")),
    ),
    scalars=("loss", "learning_rate"),
    optimizer={"name": "AdamW", "betas": [0.9, 0.999], "weight_decay": 0.01},
    groups={"layers": ("w",)},
    gradient={"stage": "raw"},
    metadata={"note": "π", "nested": {"b": [1, 2.5, None], "a": True}},
    software="the tests",
)


def joined(manifest: Manifest, gradient_rows: int) -> Manifest:
    """A revision in which two tensors and two scalars join."""
    gradients = manifest.by_name["gradients"]
    wider = stream(
        "gradients",
        *((t.name, t.shape, t.dtype) for t in gradients.tensors),
        ("late", (2, 3), "float32", gradient_rows),
        ("later", (), "float32", gradient_rows),
    )
    streams = tuple(wider if s.name == "gradients" else s for s in manifest.streams)
    return Manifest(
        **{
            **{name: getattr(manifest, name) for name in manifest.__struct_fields__},
            "streams": streams,
            "scalars": (*manifest.scalars, *(f"extra.{i}" for i in range(9))),
        }
    )


def every_dtype_run(seed: int = 7) -> list[Commit]:
    """Commits on `EVERY_DTYPE`: cadences of 1, 2 and 3, samples, holes, NaNs, a join at step 6."""
    rng = np.random.default_rng(seed)
    manifest, commits = EVERY_DTYPE, []
    for number in range(10):
        revision = None
        if number == 6:
            revision = manifest = joined(manifest, gradient_rows=3)
        rows = {"params": random_rows(manifest.by_name["params"], rng)}
        if number % 2 == 0:
            rows["gradients"] = random_rows(manifest.by_name["gradients"], rng)
        if number % 3 == 0:
            samples = 1 + number % 4
            spec = manifest.by_name["gradient_samples"]
            rows["gradient_samples"] = random_rows(spec, rng, samples)
        scalars: dict[str, float] = {}
        if number != 4:
            scalars["loss"] = (
                float("nan") if number == 1 else LOSS_NAN if number == 2 else 1 / (1 + number)
            )
        if number >= 6:
            scalars[f"extra.{number - 6}"] = float(number)
        if number == 9:
            scalars["extra.8"] = -0.0
        commits.append(Commit(10 * number, rows, scalars, revision))
    return commits


#: What a writer in another process records while others read.
LIVE = Manifest((stream("params", ("w", (5000,), "float32")),), ("loss",))


def live_commits(count: int) -> list[Commit]:
    """The same commits in whichever process asks."""
    rng = np.random.default_rng(11)
    return [
        Commit(k, {"params": random_rows(LIVE.streams[0], rng)}, {"loss": 1.0 / (k + 1)})
        for k in range(count)
    ]


@dataclass
class Expected:
    """What a container must give back after some commits, worked out from the commits alone."""

    manifest: Manifest
    steps: dict[str, list[int]] = field(default_factory=dict)
    samples: dict[str, list[int]] = field(default_factory=dict)
    lanes: dict[str, dict[str, list[np.ndarray]]] = field(default_factory=dict)
    scalar_steps: list[int] = field(default_factory=list)
    scalar_rows: list[dict[str, float]] = field(default_factory=list)
    commit_steps: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, manifest: Manifest, commits: list[Commit]) -> Expected:
        expected = cls(manifest)
        for commit in commits:
            expected.manifest = commit.manifest or expected.manifest
            expected.commit_steps.append(commit.step)
            for name, rows in commit.rows.items():
                for lane, array in rows.lanes.items():
                    held = expected.lanes.setdefault(name, {}).setdefault(lane, [])
                    held.extend(row.view(bits_dtype(lane)) for row in array)
                count = 1 if rows.samples is None else len(rows.samples)
                expected.steps.setdefault(name, []).extend([commit.step] * count)
                if rows.samples is not None:
                    expected.samples.setdefault(name, []).extend(rows.samples.tolist())
            if commit.scalars:
                expected.scalar_steps.append(commit.step)
                expected.scalar_rows.append(dict(commit.scalars))
        return expected

    def lane(self, name: str, lane: str) -> np.ndarray:
        columns = self.manifest.by_name[name].lanes[lane]
        rows = self.lanes.get(name, {}).get(lane, [])
        block = np.zeros((len(rows), columns), bits_dtype(lane))
        for target, row in zip(block, rows, strict=True):
            target[: len(row)] = row
        return block

    def scalar_bits(self) -> np.ndarray:
        bits = np.full((len(self.scalar_rows), len(self.manifest.scalars)), ABSENT_BITS, np.uint64)
        for row, present in zip(bits, self.scalar_rows, strict=True):
            for name, value in present.items():
                row[self.manifest.scalars.index(name)] = np.float64(value).view(np.uint64)
        return bits

    def check(self, container: Container) -> None:
        """Assert that the container holds exactly this."""
        assert container.manifest() == self.manifest
        assert container.commits()[:, 0].tolist() == list(range(len(self.commit_steps)))
        assert container.commits()[:, 1].tolist() == self.commit_steps
        assert np.all(np.diff(container.commits()[:, 2]) >= 0)
        for spec in self.manifest.streams:
            steps, samples = container.keys(spec.name)
            assert steps.dtype == np.int64
            assert steps.tolist() == self.steps.get(spec.name, [])
            assert container.committed_rows(spec.name) == len(steps)
            assert (samples is not None) == spec.sampled
            if samples is not None:
                assert samples.dtype == np.int32
                assert samples.tolist() == self.samples.get(spec.name, [])
            for lane in spec.lanes:
                np.testing.assert_array_equal(
                    read(container, spec.name, lane), self.lane(spec.name, lane), strict=True
                )
        steps, values = container.scalars()
        assert steps.tolist() == self.scalar_steps
        np.testing.assert_array_equal(values.view(np.uint64), self.scalar_bits(), strict=True)


def read(
    container: Container,
    name: str,
    lane: str,
    rows: slice | None = None,
    columns: slice | None = None,
) -> np.ndarray:
    """A block as bits, read through an array in the lane's own dtype."""
    rows = rows or slice(0, container.committed_rows(name))
    columns = columns or slice(0, container.manifest().by_name[name].lanes[lane])
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    out = np.full(shape, 0xA5, np.uint8).astype(bits_dtype(lane)).view(numpy_dtype(lane))
    container.read(name, lane, rows, columns, out)
    return out.view(bits_dtype(lane))
