"""For each rule of the format, a file that breaks it and no other.

`sound_run` makes a trajectory with nothing to find. Each function of `BREAKERS` then spoils one
thing about it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import trajfile
from tests.conformance.damage import chunk_offset, flip
from tests.conformance.forge import (
    edit,
    get,
    put,
    recommit,
    rekey,
    remake,
    rescale,
    restate,
    rewrite,
    superblock,
)
from trajfile.schema import NOT_YET

LANE = "streams/params/float32"
SUFFIX = {"hdf5": ".h5", "zarr": ".zarr"}

Breaker = Callable[[Path], object]
#: Who breaks a rule, by rule and container (``hdf5``, ``zarr``).
BREAKERS: dict[tuple[str, str], Breaker] = {}


def sound_run(path: Path, compression: str | None = None) -> Path:
    """Four steps, three streams, two dtypes; a tensor and a scalar join at step 2."""
    rng = np.random.default_rng(29)
    with trajfile.Writer(
        path,
        compression=compression,
        optimizer={"name": "SGD", "lr": 0.1},
        gradient={"stage": "raw", "source": "mini_batch"},
        groups={"layers": ["w"]},
    ) as writer:
        for step in range(4):
            params = {
                "count": np.array([step], np.int32),
                "w": rng.standard_normal((8, 5)).astype(np.float32),
                "b": rng.standard_normal(3).astype(np.float32),
            }
            scalars = {"loss": 1.0 / (step + 1)}
            if step > 1:
                params["late"] = rng.standard_normal(5).astype(np.float32)
                scalars["late"] = 0.5
            writer.append(
                step,
                params=params,
                gradients={"w": params["w"]},
                gradient_samples={"w": np.stack([params["w"]] * 2)},
                scalars=scalars,
            )
    return path


def breaks(*rules: str) -> Callable[[Breaker], Breaker]:
    """Register a function for rules of one container, ``H5-001``, or as ``CORE-007 zarr``."""

    def register(function: Breaker) -> Breaker:
        for text in rules:
            rule, _, container = text.partition(" ")
            only = {"H5": ["hdf5"], "ZR": ["zarr"]}.get(rule.split("-")[0], list(SUFFIX))
            for kind in [container] if container else only:
                assert (rule, kind) not in BREAKERS
                BREAKERS[rule, kind] = function
        return function

    return register


def _stating(rule: str, change: Callable[[dict[str, Any]], object], *, last: bool = False) -> None:
    breaks(rule)(lambda path: restate(path, change, last=last))


def _document(rule: str, key: str, change: Callable[[dict[str, Any]], object]) -> None:
    breaks(f"{rule} zarr")(lambda path: edit(path, key, change))


def _table(rule: str, change: Callable[[np.ndarray], object]) -> None:
    breaks(rule)(lambda path: recommit(path, change))


def _tensor(document: dict[str, Any], name: str, stream: int = 0) -> dict[str, Any]:
    return next(t for t in document["streams"][stream]["tensors"] if t["name"] == name)


def _stream(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(s for s in document["streams"] if s["name"] == name)


# CORE


@breaks("CORE-002")
def _other_bytes(path: Path) -> None:
    if path.is_dir():
        (path / "zarr.json").write_text('{"zarr_format": 2}')
    else:
        path.write_text("epoch,loss\n1,0.3\n")


def attribute(path: Path, name: str, value: Any) -> None:
    """Set a root attribute; None deletes it."""
    if path.is_dir():
        edit(path, "", lambda d: d["attributes"].update({name: value}))
        return
    with h5py.File(path, "r+") as file:
        del file.attrs[name]
        if isinstance(value, list):
            value = np.array(value, np.bytes_ if name != "format_version" else "<i8")
        if value is not None:
            file.attrs[name] = np.bytes_(value) if isinstance(value, str) else value


breaks("CORE-003")(lambda path: attribute(path, "format", "other"))
breaks("CORE-004")(lambda path: attribute(path, "format_version", [2, 0]))
breaks("CORE-005")(lambda path: attribute(path, "requires", ["holograms"]))
breaks("CORE-006 hdf5")(lambda path: path.write_bytes(path.read_bytes()[:-1]))
breaks("CORE-008")(lambda path: attribute(path, "uuid", None))
breaks("SUM-004")(lambda path: attribute(path, "uuid", "0" * 8 + "-0000" * 3 + "-" + "0" * 12))


@breaks("CORE-007")
def _fewer_columns(path: Path) -> None:
    if path.is_dir():
        edit(path, LANE, lambda d: d.update(shape=[4, 47]))
        return
    with h5py.File(path, "r+") as file:
        file[LANE + ".joined"].resize(4, axis=1)


@breaks("CORE-009")
def _shape_beyond_the_bytes(path: Path) -> None:
    if path.is_dir():
        edit(path, "commits", lambda d: d.update(shape=[4, 8 + 2**40]))
        return
    with h5py.File(path, "r+") as file:
        file["commits"].resize(2**44, axis=0)


@breaks("CORE-010")
def _pipe(path: Path) -> None:
    file = path / LANE / "c.1.0" if path.is_dir() else path
    file.unlink()
    os.mkfifo(file)


@breaks("CORE-012")
def _unfinished(path: Path) -> None:
    if path.is_dir():
        (path / "zarr.json").unlink()
    else:
        superblock(path, flags=1)


_table("CORE-011", lambda table: table[-1].__setitem__(3, 2**31))
breaks("CORE-013")(lambda path: rewrite(path, lambda lines: [*lines[:-1], b'{"streams": 3}\n']))
_stating("CORE-014", lambda d: d["optimizer"].update(momentum="high"))
_stating("CORE-015", lambda d: d["gradient"].update(stage="cooked"))

# STR and DT

_stating("STR-001", lambda d: d["streams"][0].update(name="weights"))
_stating("STR-002", lambda d: d.update(scalars=["loss", "loss"]))
_stating("STR-003", lambda d: _tensor(d, "w").update(name="w\x1b[31m"))
_stating("STR-004", lambda d: _tensor(d, "b").update(name="w"))
_stating("STR-005", lambda d: _tensor(d, "w").update(shape=[2**40, 2**40]))
_stating("STR-006", lambda d: _tensor(d, "b").update(offset=41))
_stating("STR-007", lambda d: _tensor(d, "w").update(first_row=1))
breaks("STR-008")(lambda path: rekey(path, "params", lambda steps: steps.__setitem__(2, 1)))
_stating("STR-009", lambda d: _stream(d, "gradient_samples")["tensors"][0].update(name="ghost"))
_stating("STR-010", lambda d: d.update(scalars=["cost", "late"]), last=True)
_stating("STR-011", lambda d: _tensor(d, "late").update(first_row=9), last=True)
_stating("STR-012", lambda d: _tensor(d, "count").update(first_row=NOT_YET))
_stating("DT-001", lambda d: _tensor(d, "count").update(dtype="float33"))
breaks("DT-002 hdf5")(lambda path: remake(path, LANE, dtype="f8"))
_document("DT-002", LANE, lambda d: d.update(data_type="float64"))
_document("DT-003", LANE, lambda d: d.update(attributes={}))


@breaks("DT-003 hdf5")
def _nameless_lane(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file[LANE].attrs["dtype"]


# COM and SUM


@breaks("COM-001")
def _torn_record(path: Path) -> None:
    table = get(path, "commits")
    table[1, 1] ^= 1
    put(path, "commits", table)


@breaks("COM-002")
def _fewer_rows(path: Path) -> None:
    if path.is_dir():
        (path / "streams/params/step/c.0").unlink()
        return
    with h5py.File(path, "r+") as file:
        file["streams/params/step"].resize(2, axis=0)


_table("COM-003", lambda table: table[1:3, 1].__setitem__(slice(None), [2, 1]))
breaks("COM-004")(lambda path: rekey(path, "params", lambda steps: steps.__setitem__(3, 99)))
breaks("COM-005")(lambda path: rescale(path, lambda steps, _: steps.__setitem__(3, 99), 2))
_table("COM-006", lambda table: table[1].__setitem__(2, 0))
_table("COM-008", lambda table: table[1].__setitem__(4, 9))


@breaks("COM-007")
def _wider_records(path: Path) -> None:
    table = get(path, "commits")
    rows, columns = table.shape
    if path.is_dir():
        edit(path, "commits", lambda d: d.update(shape=[rows, columns + 1]))
        return
    wider = np.zeros((rows, columns + 1), np.uint64)
    remake(path, "commits", shape=wider.shape, data=wider, maxshape=(None, None))


@breaks("SUM-001")
def _changed_step(path: Path) -> None:
    steps = get(path, "streams/params/step")
    steps[0] = 1
    put(path, "streams/params/step", steps)


@breaks("SUM-002")
def _missing_chunk(path: Path) -> None:
    if path.is_dir():
        (path / LANE / "c.1.0").unlink()
        return
    with h5py.File(path, "r+") as file:
        file[LANE].resize(3, axis=0)
        file[LANE].resize(4, axis=0)


@breaks("SUM-003")
def _flipped_bit(path: Path) -> None:
    if path.is_dir():
        flip(path / LANE / "c.1.0", 7)
    else:
        flip(path, chunk_offset(path, LANE, 1) + 7)


# H5


@breaks("H5-001")
def _external_storage(path: Path) -> None:
    secret = path.with_name("secret")
    secret.write_bytes(bytes(32))
    with h5py.File(path, "r+") as file:
        del file["streams/params/step"]
        file.create_dataset("streams/params/step", (4,), "i8", external=[(str(secret), 0, 32)])


@breaks("H5-002")
def _soft_link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["alias"] = h5py.SoftLink("/manifest")


@breaks("H5-003")
def _second_link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["again"] = file["manifest"]


@breaks("H5-004")
def _nested_groups(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.create_group("/".join("g" * 33))


@breaks("H5-005")
def _committed_type(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["kind"] = np.dtype("<f4")


breaks("H5-006")(lambda path: remake(path, LANE, compression="lzf"))
breaks("H5-007")(lambda path: remake(path, LANE, fletcher32=False))
breaks("H5-008")(lambda path: remake(path, "streams/params/step", fletcher32=True))
breaks("H5-009")(lambda path: remake(path, "streams/params/step", maxshape=(4,), chunks=(4,)))
breaks("H5-010")(lambda path: remake(path, LANE, chunks=(2, 43)))


@breaks("H5-011")
def _skipped_filter(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        row = file[LANE][1]
        file[LANE].id.write_direct_chunk((1, 0), row.tobytes(), filter_mask=1)


@breaks("H5-012")
def _text_of_any_length(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["uuid"] = str(file.attrs["uuid"])


breaks("H5-013")(lambda path: superblock(path, version=2))

# ZR


@breaks("ZR-001")
def _symbolic_link(path: Path) -> None:
    chunk = path / LANE / "c.1.0"
    chunk.rename(path.with_name("elsewhere"))
    chunk.symlink_to(path.with_name("elsewhere"))


def _lane_codec(document: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = document["codecs"][0]["configuration"]
    return settings


breaks("ZR-002")(lambda path: (path / LANE / "zarr.json").write_text("{"))
breaks("ZR-003")(lambda path: (path / "streams/params/zarr.json").unlink())
_document("ZR-004", LANE, lambda d: d["chunk_grid"].update(name="rectangular"))
_document("ZR-005", LANE, lambda d: d["chunk_key_encoding"].update(name="v2"))
_document("ZR-006", LANE, lambda d: d.update(storage_transformers=[{"name": "x"}]))
_document("ZR-007", LANE, lambda d: d.update(codecs=[{"name": "pickle"}]))
_document("ZR-008", LANE, lambda d: _lane_codec(d).update(index_location="start"))
_document("ZR-009", LANE, lambda d: _lane_codec(d).update(chunk_shape=[1, 44]))
_document("ZR-010", "commits", lambda d: d["codecs"].append({"name": "crc32c"}))
_document(
    "ZR-011", "commits", lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[2**21, 14])
)
_document("ZR-012", LANE, lambda d: d.update(fill_value=0))

# USE

breaks("USE-002")(lambda path: restate(path, lambda d: d["gradient"].pop("stage")))
breaks("USE-003")(lambda path: restate(path, lambda d: d["optimizer"].pop("lr")))
_stating("USE-007", lambda d: d["groups"].update(layers=["w", "ghost"]))


@breaks("USE-001")
def _nothing_yet(path: Path) -> None:
    from trajfile.containers import create
    from trajfile.schema import Manifest

    spoiled = path.with_name("empty" + path.suffix)
    create(spoiled, Manifest(), compression=None).close()
    if path.is_dir():
        path.rename(path.with_name("whole" + path.suffix))
    spoiled.rename(path)


@breaks("USE-004")
def _rising_rate(path: Path) -> None:
    restate(path, lambda d: d.update(scalars=["learning_rate", "late"][: len(d["scalars"])]))
    rescale(path, lambda _, values: values.__setitem__((1, 0), -0.1), 2)


@breaks("USE-005")
def _infinite_loss(path: Path) -> None:
    rescale(path, lambda _, values: values.__setitem__((1, 0), np.inf), 2)


@breaks("USE-006")
def _infinite_weight(path: Path) -> None:
    lane = get(path, LANE)
    lane[1, 7] = np.inf
    put(path, LANE, lane)
