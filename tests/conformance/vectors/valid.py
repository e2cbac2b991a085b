"""The valid vectors: one for each combination of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tests.conformance.vectors.image import Image, Style, crc, image_of, line, record
from tests.conformance.vectors.runs import (
    ABSENT,
    FIRST_WALL_NS,
    NOT_YET,
    SIZES,
    Bits,
    Commit,
    Run,
    float_bits,
    manifest,
    some_bits,
    tensor,
)

CONTAINERS = ("hdf5", "zarr")
PARAMS = {"params": [tensor("w"), tensor("b", (2,))]}
ONE = {"params": 1}
HALF, QUARTER = float_bits(0.5, 0.25)


@dataclass(frozen=True)
class Valid:
    """One vector.

    Attributes:
        name: Of its files.
        says: What it is about.
        run: What it holds.
        style: How it is written here; None if trajfile itself writes it.
        compression: How trajfile compresses, where it writes.
        killed: Whether trajfile is stopped before it closes.
        change: What else is done to the arrays.
        containers: Those it is made for.
        requires: Features without which it cannot be read.
    """

    name: str
    says: str
    run: Run
    style: Style | None = None
    compression: str | None = None
    killed: bool = False
    change: Callable[[Image], None] = lambda image: None
    containers: tuple[str, ...] = CONTAINERS
    requires: tuple[str, ...] = ()

    def image(self) -> Image:
        """Its arrays."""
        image = image_of(self.run, self.style)
        self.change(image)
        return image


def plain(steps: int = 3) -> Run:
    """Two tensors and a loss."""
    first = manifest(PARAMS, ["loss"])
    return Run([first], [Commit(k, ONE, {"loss": bits}) for k, bits in enumerate(_losses(steps))])


def _losses(count: int) -> list[int]:
    return float_bits(*(1 / (1 + k) for k in range(count)))


def dtypes() -> Run:
    """A lane for each dtype."""
    tensors = [tensor(f"of.{dtype}", (2, 2), dtype) for dtype in SIZES]
    return Run([manifest({"params": tensors})], [Commit(k, ONE) for k in range(2)])


def special_bits() -> Run:
    """NaNs with payloads, infinities, subnormals and negative zeros in every float lane."""
    special = {
        "float16": [0x7E01, 0xFDFF, 0x7C00, 0x8001, 0x8000],
        "float32": [0x7F800001, 0xFFC12345, 0xFF800000, 0x00000001, 0x80000000],
        "float64": [0x7FF0000000000001, ABSENT, 0x7FF0000000000000, 1, 2**63],
        "bfloat16": [0x7F81, 0xFFFF, 0x7F80, 0x0001, 0x8000],
        "float8_e5m2": [0x7D, 0xFF, 0x7C, 0x01, 0x80],
        "float8_e4m3fn": [0x7F, 0xFF, 0x7E, 0x01, 0x80],
    }

    def values(stream: str, name: str, dtype: str, row: int, size: int) -> Bits:
        if row == 1:  # all zeros: chunks that a library might leave out
            return np.zeros(size, f"<u{SIZES[dtype]}")
        return np.array(special[dtype][:size], f"<u{SIZES[dtype]}")

    tensors = [tensor(f"of.{dtype}", (5,), dtype) for dtype in special]
    return Run([manifest({"params": tensors})], [Commit(k, ONE) for k in range(2)], values=values)


def absent() -> Run:
    """Scalars that are absent, NaN with other payloads, infinite, or negative zero."""
    names = ["loss", "learning_rate", "never"]
    nan, other, quiet = 0x7FF8000000000000, 0xFFF00000DEADBEEF, ABSENT + 1
    rows: list[dict[str, int]] = [
        {"loss": nan, "learning_rate": HALF},
        {"loss": other},
        {"learning_rate": quiet},
        {"loss": 0x7FF0000000000000, "learning_rate": 1 << 63},
    ]
    commits = [Commit(5 * k, ONE if k % 2 == 0 else {}, row) for k, row in enumerate(rows)]
    return Run([manifest(PARAMS, names)], [*commits, Commit(20, ONE)])


def scalars_join() -> Run:
    """Ten scalars join, one and nine at a time; older rows lack them."""
    first = manifest(PARAMS, ["loss"])
    second = manifest(PARAMS, ["loss", "accuracy"])
    third = manifest(PARAMS, ["loss", "accuracy", *(f"extra.{k}" for k in range(9))])
    return Run(
        [first, second, third],
        [
            Commit(0, ONE, {"loss": HALF}),
            Commit(1, {}, {"loss": QUARTER, "accuracy": HALF}, revision=True),
            Commit(2, ONE),
            Commit(3, ONE, {f"extra.{k}": 1000 + k for k in range(0, 9, 2)}, revision=True),
            Commit(4, {}, {"loss": HALF, "extra.8": ABSENT + 5}),
        ],
    )


def tensors_join() -> Run:
    """Tensors join twice, in one lane wider than a chunk; another lane stays as it is."""
    base = [tensor("w", (5,)), tensor("n", (2,), "int16")]
    late = [*base, tensor("late", (2, 3), first_row=2), tensor("scalar", (), first_row=2)]
    last = [*late, tensor("head", (4,), first_row=3), tensor("none", (0,), "int16", 3)]
    other = [tensor("w", (5,))]
    return Run(
        [manifest({"gradients": other, "params": table}) for table in (base, late, last)],
        [
            Commit(0, {"params": 1, "gradients": 1}),
            Commit(1, {"params": 1}),
            Commit(2, {"params": 1}, revision=True),
            Commit(3, {"params": 1, "gradients": 1}, revision=True),
            Commit(4, {"params": 1}),
        ],
    )


def declared_ahead() -> Run:
    """Slots declared without a row; they settle in another order, and one never does."""
    params = [tensor("a"), tensor("b", (2,)), tensor("c", (4,))]

    def slot(*tensors: Mapping[str, Any]) -> dict[str, Any]:
        return manifest({"params": params, "optimizer/exp_avg": [*tensors]})

    a, b, c = (
        tensor(name, tuple(size), first_row=NOT_YET)
        for name, size in (("a", [3]), ("b", [2]), ("c", [4]))
    )
    return Run(
        [slot(a, b, c), slot({**b, "first_row": 0}, a, c), slot(*_joined(b, 0), *_joined(c, 2), a)],
        [
            Commit(0, {"params": 1}),
            Commit(1, {"params": 1, "optimizer/exp_avg": 1}, revision=True),
            Commit(2, {"optimizer/exp_avg": 1}),
            Commit(3, {"optimizer/exp_avg": 1}, revision=True),
        ],
    )


def _joined(given: Mapping[str, Any], row: int) -> list[dict[str, Any]]:
    return [{**given, "first_row": row}]


def samples() -> Run:
    """Gradient samples: 2, 1, 4 and 3 of them, between steps without any."""
    tensors = [tensor("w"), tensor("b", (2,))]
    counts = {0: 2, 2: 1, 3: 4, 7: 3}
    streams = {"params": tensors, "gradient_samples": tensors}
    stated = {"stage": "raw", "source": "mini_batch", "batch_size": 32, "dataset_size": 50000}
    return Run(
        [manifest(streams, ["loss"], gradient=stated)],
        [
            Commit(
                step,
                {"params": 1, **({"gradient_samples": counts[step]} if step in counts else {})},
                {"loss": HALF},
            )
            for step in range(9)
        ],
    )


def all_streams() -> Run:
    """Every stream at a cadence of its own; all that is stated of a run."""
    tensors = [tensor("fc.weight", (2, 3)), tensor("fc.bias", (2,))]
    slots = ["optimizer/exp_avg", "optimizer/exp_avg_sq", "optimizer/0_.-Z"]
    names = ["params", "gradients", "updates", "gradient_samples", *slots]
    half = [tensor(t["name"], tuple(t["shape"]), "bfloat16") for t in tensors]
    streams = {n: half if n.endswith("exp_avg") else tensors for n in names}
    return Run(
        [
            manifest(
                streams,
                ["loss", "learning_rate"],
                optimizer={
                    **{"name": "AdamW", "weight_decay": 0.01, "decoupled_weight_decay": True},
                    **{"betas": [0.9, 0.999], "eps": 1e-08, "amsgrad": None},
                },
                groups={"layers": ["fc.weight"], "scale_invariant": []},
                gradient={"stage": "clipped", "source": "full_batch"},
                metadata={"π": 'θ\n\t"\\', "deep": {"a": [1, 2.5, None, True, {"b": []}]}},
                software="another program 2.0",
            )
        ],
        [
            Commit(
                10 * k,
                {name: 1 for place, name in enumerate(names) if k % (1 + place % 3) == 0},
                {"loss": HALF, "learning_rate": QUARTER} if k % 2 else {},
            )
            for k in range(6)
        ],
    )


def odd_tensors() -> Run:
    """Tensors of shape (), tensors without elements, a lane of nothing, a stream of nothing."""
    tensors = [
        *(tensor("scalar", ()), tensor("none", (0, 3)), tensor("between", (1, 1, 1))),
        *(tensor("empty", (4, 0), "float64"), tensor("last", ())),
    ]
    names = {"params": tensors, "updates": []}
    return Run([manifest(names)], [Commit(k, {"params": 1, "updates": k % 2}) for k in range(3)])


def names() -> Run:
    """Names at the limits: 1 and 1024 characters, spaces, slashes, dots, other scripts."""
    odd = ["a", "x" * 1024, "a/b", "..", " lead and trail ", "∂θ/∂t", "层.权重", "<b>&amp;", "%s{}"]
    tensors = [tensor(name, ()) for name in odd]
    return Run([manifest({"params": tensors}, odd)], [Commit(0, ONE, dict.fromkeys(odd, HALF))])


def large_steps() -> Run:
    """Steps up to 2^63 - 1, several commits at one step."""
    first = manifest({"params": [tensor("w")], "gradients": [tensor("w")]}, ["loss"])
    return Run(
        [first],
        [
            Commit(2**53 + 1, {"params": 1}),
            Commit(2**53 + 1, {"gradients": 1}, {"loss": HALF}),
            Commit(2**63 - 1, {"params": 1}, {"loss": QUARTER}),
        ],
    )


def wide() -> Run:
    """Lanes of several chunks a row, the last one not full, of which some join."""
    base = [tensor("w", (13,)), tensor("n", (9,), "uint8")]
    more = [*base, tensor("late", (7,), first_row=1), tensor("m", (2,), "uint8", 1)]
    return Run(
        [manifest({"params": base}), manifest({"params": more})],
        [Commit(0, ONE), Commit(1, ONE, revision=True), Commit(2, ONE)],
    )


def many_commits() -> Run:
    """More commits than a chunk of a table holds; seven revisions."""
    revisions = [
        manifest(PARAMS, [f"s.{k}" for k in range(1 + n)], metadata={"revision": n})
        for n in range(7)
    ]
    return Run(
        revisions,
        [
            Commit(3 * k, ONE if k % 2 else {}, {f"s.{k % (1 + k // 3)}": 7000 + k}, k in _REVISED)
            for k in range(21)
        ],
    )


_REVISED = {3, 6, 9, 12, 15, 18}


def _tail(image: Image) -> None:
    """Leave what a kill amid an append leaves: rows, keys, scalars, a revision, torn records."""
    later = plain(5)
    grown = image_of(later, image.style)
    torn = grown.tables["commits"][3:].copy()
    torn[0, 6:] = 0  # cut short, so that their checksums are lacking
    torn[1, -1] = 0
    grown.tables["commits"] = np.concatenate([image.tables["commits"], torn])
    revision = line(manifest({"params": [tensor("other", (1,))]}))[:-9]
    kept = image.tables["manifest"]
    image.tables = {**grown.tables, "manifest": np.append(kept, np.frombuffer(revision, np.uint8))}
    image.lanes = grown.lanes


def _before_the_rewind() -> Run:
    """Steps 0 to 6, a tensor and a scalar joining at step 4."""
    late = [*PARAMS["params"], tensor("late", (4,), first_row=4)]
    revisions = [manifest(PARAMS, ["loss"]), manifest({"params": late}, ["loss", "norm"])]
    commits = [
        Commit(k, ONE, {"loss": HALF, **({"norm": QUARTER} if k >= 4 else {})}, k == 4)
        for k in range(7)
    ]
    return Run(revisions, commits)


def rewound(*, to: int = 3) -> Run:
    """Went back, before which a tensor and a scalar had joined; then steps 3 and 4 again."""
    lost = 7 - to
    taken = {
        **{"step": to, "last_step": 6, "wall_ns": FIRST_WALL_NS + 7},
        "rows": {"params": lost, "scalars": lost},
    }

    def values(stream: str, name: str, dtype: str, row: int, size: int) -> Bits:
        return some_bits(stream, name if row < to else f"{name} again", dtype, row, size)

    again = [Commit(k, ONE, {"loss": QUARTER}) for k in (to, to + 1)]
    commits = [*(Commit(k, ONE, {"loss": HALF}) for k in range(to)), *again]
    revision = manifest(PARAMS, ["loss"], lineage=[taken])
    return Run([revision], commits, values=values, places=[*range(to), 8, 9])


def rewind(image: Image, *, to: int = 3) -> None:
    """Put what was taken back, and the rewind, among the records and the revisions."""
    old = image_of(_before_the_rewind(), image.style)
    text = old.tables["manifest"].tobytes() + image.tables["manifest"].tobytes()
    n, covered = 1, {3: len(text), 6: crc(text)}
    records = [[int(value) for value in row] for row in old.tables["commits"]]
    known = records[to - 1] if to else [0] * (8 + 2 * n)
    body = [7, 2**64 - 1 - to, FIRST_WALL_NS + 7, 0, *known[4:-1]]
    bodies = [body, *([int(v) for v in row[:-1]] for row in image.tables["commits"][to:])]
    for number, body in enumerate(bodies, 7):
        body[0], body[2] = number, FIRST_WALL_NS + number
        for column, value in covered.items():
            body[column] = value
        records.append(record(*body))
    image.tables["manifest"] = np.frombuffer(text, np.uint8)
    image.tables["commits"] = np.array(records, "<u8")
    lane, left = image.lanes["streams/params/float32"], old.lanes["streams/params/float32"]
    lane.rows += left.rows[len(lane.rows) :]  # what nothing has been written over
    values = old.tables["scalars/value"].copy()
    values[: to + 2] = ABSENT
    values[: to + 2, :1] = image.tables["scalars/value"]
    image.tables["scalars/value"] = values
    for key in ("scalars/step", "streams/params/step"):
        image.tables[key] = np.append(image.tables[key], old.tables[key][to + 2 :])


def _unknown(image: Image) -> None:
    """Add what later minor versions might: a reader ignores it."""
    image.attributes["uses"] = ["histograms", "sub-steps"]
    image.attributes["license"] = "CC0-1.0"
    image.attributes["numbers"] = 7
    image.others["notes/deep/below"] = np.arange(4, dtype="<i8")
    image.others["streams/params/float32.index"] = np.arange(2, dtype="<u8")
    image.others["streams/activations/step"] = np.arange(2, dtype="<i8")


def _unknown_fields() -> Run:
    run = plain()
    first = run.revisions[0]
    more = {**first, "weather": [{"from": 3}], "streams": []}
    for stream in first["streams"]:
        tensors = [{**given, "unit": "none"} for given in stream["tensors"]]
        more["streams"].append({**stream, "tensors": tensors, "cadence": 1})
    return replace(run, revisions=[more], version=(1, 7))


def _loose_json(image: Image) -> None:
    """The manifest as another library might print it, with all defaults left out."""
    text = (
        b'{ "streams" : [ {"tensors": [{"dtype":"float32","offset":0,"shape":[3],"name":"\\u0077"},'
        b'\t{"dtype":"float32","offset":3,"shape":[2],"name":"b"} ], "name":"params"} ],'
        b' "scalars":["loss"], "software": "vectors 1" }\n'
    )
    image.tables["manifest"] = np.frombuffer(text, np.uint8)
    for row in image.tables["commits"]:
        body = [int(value) for value in row[:-1]]
        body[3], body[6] = len(text), crc(text)
        row[:] = record(*body)


def _archived(image: Image) -> None:
    """Let it be an archive, whose lanes are as wide as they ever got."""
    image.attributes["requires"] = ["archive"]
    for lane in image.lanes.values():
        lane.at_creation = max(len(row) for row in lane.rows)


def valid_vectors() -> Iterator[Valid]:
    """All of them."""
    free = Style()
    yield Valid("every_dtype", "a lane of each dtype", dtypes())
    for packed in ("gzip", "zstd"):
        says = f"{packed}, as trajfile writes it, in a lane of each dtype"
        yield Valid(f"every_dtype_{packed}", says, dtypes(), compression=packed)
    yield Valid("special_bits", special_bits.__doc__ or "", special_bits())
    yield Valid("absent_scalars", absent.__doc__ or "", absent())
    yield Valid("scalars_join", scalars_join.__doc__ or "", scalars_join())
    yield Valid("tensors_join", tensors_join.__doc__ or "", tensors_join())
    yield Valid("tensors_join_zstd", "the same, compressed", tensors_join(), compression="zstd")
    yield Valid("declared_ahead", declared_ahead.__doc__ or "", declared_ahead())
    yield Valid("gradient_samples", samples.__doc__ or "", samples())
    yield Valid("all_streams", all_streams.__doc__ or "", all_streams())
    yield Valid("odd_tensors", odd_tensors.__doc__ or "", odd_tensors())
    yield Valid("names", names.__doc__ or "", names(), free)
    nothing = replace(plain(), commits=[])
    yield Valid("no_commit", "created, and nothing appended", nothing)
    no_streams = Run([manifest({}, ["loss"])], [Commit(4, {}, {"loss": HALF})])
    yield Valid("only_scalars", "no streams at all", no_streams, free)
    yield Valid("large_steps", large_steps.__doc__ or "", large_steps(), free)
    yield Valid("killed", "the writer was killed after three commits", plain(), killed=True)
    says = "a killed writer: SWMR mark in HDF5, .partial files in Zarr; tables of odd chunks"
    yield Valid("killed_elsewhere", says, plain(), replace(free, killed=True))
    says = "rows, keys, scalars, manifest bytes and torn commit records beyond the last commit"
    yield Valid("uncommitted_tail", says, plain(), free, change=_tail)
    tail = replace(free, killed=True)
    yield Valid("uncommitted_tail_killed", f"{says}, killed", plain(), tail, change=_tail)
    spare = replace(free, spare=(3, 5))
    says = "arrays with more rows and columns than are committed"
    yield Valid("spare_space", says, scalars_join(), spare)
    says = "shapes that lag behind the commits by two rows, as a kill may leave them"
    yield Valid("shape_lags", says, plain(), replace(free, spare=(-2, 0)), containers=("zarr",))
    says = "commits taken back by a rewind, and others in their place; leftovers of the old ones"
    yield Valid("rewound", says, rewound(), free, change=rewind)
    says = "a rewind to step 0, so that nothing before is left"
    yield Valid("rewound_to_nothing", says, rewound(to=0), free, change=partial(rewind, to=0))
    for packed in (None, "gzip", "zstd"):
        style = Style(width=5, joined_width=3, shard=2, compression=packed)
        name = "wide" if packed is None else f"wide_{packed}"
        yield Valid(name, f"{wide.__doc__} Compression: {packed}.", wide(), style)
    style = Style(width=3, shard=3, compression="gzip", shuffle=True)
    yield Valid("wide_shuffled_gzip", "bytes shuffled first", wide(), style, containers=("hdf5",))
    style = replace(style, compression="zstd")
    yield Valid("wide_shuffled_zstd", "bytes shuffled first", wide(), style, containers=("hdf5",))
    for packed in (None, "gzip", "zstd", "blosc"):
        style = Style(width=5, height=2, shard=2, compression=packed, joined=False)
        says = f"an archive: tiles of two rows, the last not full. Compression: {packed}."
        name = "archive" if packed is None else f"archive_{packed}"
        kinds = CONTAINERS if packed != "blosc" else ("zarr",)
        needs = ("archive",)
        yield Valid(name, says, wide(), style, None, False, _archived, kinds, needs)
    style = Style(width=1, joined_width=2, table_rows=1)
    yield Valid("narrow", "chunks of one element, tables of one row a chunk", wide(), style)
    joined = replace(free, joined=False)
    says = "no dataset for columns that join"
    yield Valid("nothing_joined", says, plain(), joined, containers=("hdf5",))
    says = "more commits than a chunk of a table holds, seven revisions"
    yield Valid("many_commits", says, many_commits(), Style(table_rows=4))
    says = "features, attributes, arrays, groups and manifest fields of a later minor version"
    yield Valid("unknown_additions", says, _unknown_fields(), free, change=_unknown)
    says = "a manifest with other spacing, order and escapes, fields left out that have defaults"
    yield Valid("loose_json", says, plain(), free, change=_loose_json)


VALID = tuple(valid_vectors())
