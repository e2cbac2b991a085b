"""The broken vectors: one for each rule that a file can break, in each container it is of."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.conformance.vectors import spoil_hdf5 as h5
from tests.conformance.vectors import spoil_zarr as zr
from tests.conformance.vectors.image import Image, Style, image_of
from tests.conformance.vectors.runs import NOT_YET, Commit, Run, float_bits, manifest, tensor
from tests.conformance.vectors.spoil import (
    Change,
    edit_records,
    flipped,
    put,
    put_manifest,
    rekeyed,
    revised,
    scalars_at,
)
from tests.conformance.vectors.valid import rewind, rewound

HALF = float_bits(0.5)[0]
SMALL = Style(width=4, table_rows=4, joined=False)
PACKED = replace(SMALL, compression="gzip")


def base(**stated: Any) -> Run:
    """Three commits: params, gradient samples twice, a loss."""
    streams = {"params": [tensor("w"), tensor("b", (2,))], "gradient_samples": [tensor("w")]}
    commits = [Commit(k, {"params": 1, "gradient_samples": k}, {"loss": HALF}) for k in range(3)]
    return Run([manifest(streams, ["loss"], **stated)], commits)


def pair(commits: list[Commit]) -> Run:
    """Params and gradients, appended as stated."""
    return Run([manifest({"params": [tensor("w")], "gradients": [tensor("w")]})], commits)


BASE = base()


@dataclass(frozen=True)
class Broken:
    """One vector.

    Attributes:
        name: Of its files.
        rule: The rule that it breaks.
        says: What is wrong.
        change: Done to the arrays.
        hdf5: Done to the written file; None if the vector is not made for HDF5.
        zarr: Done to the written folder; None if the vector is not made for Zarr.
        run: What it held.
        style: How it is written.
    """

    name: str
    rule: str
    says: str
    change: Change = lambda image: None
    hdf5: Callable[[Path], None] | None = lambda path: None
    zarr: Callable[[Path], None] | None = lambda path: None
    run: Run = BASE
    style: Style = SMALL

    @property
    def containers(self) -> tuple[str, ...]:
        """Those it is made for."""
        return tuple(kind for kind in ("hdf5", "zarr") if getattr(self, kind) is not None)

    def image(self) -> Image:
        """Its arrays."""
        image = image_of(self.run, self.style)
        self.change(image)
        return image


def only_hdf5(
    name: str, rule: str, says: str, spoil: Callable[[Path], None], **rest: Any
) -> Broken:
    """A vector of HDF5 alone."""
    return Broken(name, rule, says, hdf5=spoil, zarr=None, **rest)


def only_zarr(
    name: str, rule: str, says: str, spoil: Callable[[Path], None], **rest: Any
) -> Broken:
    """A vector of Zarr alone."""
    return Broken(name, rule, says, zarr=spoil, hdf5=None, **rest)


def attribute(name: str, value: object) -> Change:
    """Set an attribute of the root; None leaves it out."""

    def change(image: Image) -> None:
        image.attributes[name] = value
        if value is None:
            del image.attributes[name]

    return change


def of_tensor(number: int, **fields: Any) -> Callable[[dict[str, Any]], None]:
    """Change fields of a tensor of params."""
    return lambda revision: revision["streams"][0]["tensors"][number].update(fields)


def of_stream(number: int, name: str) -> Callable[[dict[str, Any]], None]:
    """Rename a stream."""
    return lambda revision: revision["streams"][number].update(name=name)


def core() -> Iterator[Broken]:
    """What a trajectory is."""
    text = b"epoch,loss\n1,0.3\n"
    yield only_hdf5("text", "CORE-002", "a text file", lambda path: path.write_bytes(text))
    yield only_zarr("zarr_2", "CORE-002", "a group of Zarr 2", zr.edited("", zarr_format=2))
    yield Broken("no_format", "CORE-003", "no attribute 'format'", attribute("format", None))
    says = "another program's attribute 'format'"
    yield Broken("other_format", "CORE-003", says, attribute("format", "checkpoint"))
    yield Broken("version_2", "CORE-004", "format 2.0", attribute("format_version", [2, 0]))
    yield Broken("requires", "CORE-005", "a feature unknown", attribute("requires", ["holograms"]))
    yield Broken("no_uuid", "CORE-008", "no attribute 'uuid'", attribute("uuid", None))
    yield Broken("no_uses", "CORE-008", "no attribute 'uses'", attribute("uses", None))
    yield Broken(
        "version_as_text",
        "CORE-008",
        "'format_version' is text",
        attribute("format_version", "1.0"),
    )
    yield only_hdf5("truncated", "CORE-006", "the file lacks its end", h5.truncated)
    yield Broken(
        "no_steps",
        *("CORE-007", "an array is missing"),
        hdf5=h5.removed("streams/params/step"),
        zarr=zr.removed("streams/params/step"),
    )
    yield Broken(
        "no_lane",
        *("CORE-007", "a lane is missing"),
        hdf5=h5.removed("streams/gradient_samples/float32"),
        zarr=zr.removed("streams/gradient_samples/float32"),
    )
    yield Broken(
        "too_few_columns",
        *("CORE-007", "a lane has fewer columns than its tensors"),
        revised(of_tensor(1, shape=[7])),
    )
    yield only_hdf5(
        "huge_table", "CORE-009", "commit records by the billion", h5.extended("commits", 2**44)
    )
    says = "a pipe in place of a chunk"
    yield only_zarr("pipe", "CORE-010", says, zr.piped("streams/params/step/c.0"))
    says = "a manifest of 2^31 bytes is claimed"
    yield Broken(
        "huge_manifest",
        *("CORE-011", says, lambda image: edit_records(image, lambda b: put(b, {3: 2**31}))),
    )
    says = "creation was cut short"
    yield Broken("unfinished", "CORE-012", says, hdf5=h5.unfinished, zarr=zr.unfinished)
    for name, says, data in (
        ("not_json", "the manifest is not JSON", b"{streams: []}\n"),
        ("json_of_another_shape", "the streams are a number", b'{"streams":3}\n'),
        ("no_newline", "the manifest's last line does not end", b"{}"),
        ("no_line", "the manifest's last line is empty", b"{}\n\n"),
        ("nan", "a bare NaN, which is no JSON", b'{"metadata":{"loss":NaN}}\n'),
    ):
        yield Broken(f"manifest_{name}", "CORE-013", says, lambda i, d=data: put_manifest(i, d))
    says = "the momentum is a text"
    yield Broken("optimizer", "CORE-014", says, run=base(optimizer={"momentum": "high"}))
    says = "an unknown stage of gradients"
    yield Broken("gradient", "CORE-015", says, run=base(gradient={"stage": "cooked"}))


def structure() -> Iterator[Broken]:
    """Streams and their tensors."""
    yield Broken(
        "stream_name", "STR-001", "a stream of no known name", revised(of_stream(1, "activations"))
    )
    yield Broken("stream_twice", "STR-001", "a stream twice", revised(of_stream(1, "params")))
    yield Broken(
        "scalar_twice",
        *("STR-002", "a scalar twice", revised(lambda r: r.update(scalars=["loss", "loss"]))),
    )
    for name, text in (("empty", ""), ("escape", "w\x1b[31m"), ("long", "w" * 1025)):
        says = f"a tensor's name: {name}"
        yield Broken(f"name_{name}", "STR-003", says, revised(of_tensor(0, name=text)))
    yield Broken("tensor_twice", "STR-004", "a tensor twice", revised(of_tensor(1, name="w")))
    says = "a length with a fraction, 3.0"
    yield Broken("shape_as_float", "CORE-013", says, revised(of_tensor(0, shape=[3.0])))
    says = "a negative length"
    yield Broken("negative_shape", "STR-005", says, revised(of_tensor(1, shape=[-2])))
    says = "more than 2^48 columns"
    yield Broken("too_many_columns", "STR-005", says, revised(of_tensor(1, shape=[2**24, 2**25])))
    yield Broken("hole", "STR-006", "a hole in a lane", revised(of_tensor(1, offset=4)))
    yield Broken("overlap", "STR-006", "tensors overlap", revised(of_tensor(1, offset=2)))
    says = "a tensor joins after one to its right"
    yield Broken("joins_before", "STR-007", says, revised(of_tensor(0, first_row=1)))
    again = [
        Commit(3, {"params": 1}),
        Commit(3, {"params": 1, "gradients": 1}),
        Commit(4, {"gradients": 1}),
    ]
    yield Broken("step_twice", "STR-008", "a stream has a step twice", run=pair(again))
    says = "samples of a step are numbered 0 and 2"
    yield Broken("sample_gap", "STR-008", says, rekeyed("gradient_samples", [1, 2, 2], [0, 0, 2]))
    one, other = [tensor("w")], [tensor("v")]
    for name, says, table in (
        ("unknown_tensor", "a gradient of a tensor that params lacks", other),
        ("shape_differs", "a gradient in another shape than its parameter", [tensor("w", (4,))]),
    ):
        run = Run([manifest({"params": one, "gradients": table})], _each(2, "params", "gradients"))
        yield Broken(name, "STR-009", says, run=run)
    kept = [tensor("u"), tensor("v", (2,), first_row=1)]
    commits = [Commit(0, {"params": 1}), Commit(1, {"params": 1}, revision=True)]
    run = Run([manifest({"params": one}), manifest({"params": kept})], commits)
    yield Broken("revision_renames", "STR-010", "a later revision renames a tensor", run=run)
    commits = [Commit(0, {"params": 1}, {"a": HALF}), Commit(1, {"params": 1}, revision=True)]
    run = Run([manifest({"params": one}, ["a", "b"]), manifest({"params": one}, ["a"])], commits)
    yield Broken("revision_drops", "STR-010", "a later revision drops a scalar", run=run)
    late = [*one, tensor("late", (2,), first_row=9)]
    run = Run([manifest({"params": late})], _each(2, "params"))
    yield Broken("first_row", "STR-011", "a first row that nobody committed", run=run)
    waiting = [tensor("late", (2,), "float64", NOT_YET), *one]
    run = Run([manifest({"params": waiting})], _each(2, "params"))
    says = "a tensor without a row stands before one that has rows"
    yield Broken("waiting_first", "STR-012", says, run=run)


def _each(count: int, *streams: str) -> list[Commit]:
    return [Commit(k, dict.fromkeys(streams, 1)) for k in range(count)]


def dtypes() -> Iterator[Broken]:
    """Dtypes and how they are stored."""
    says = "a dtype of no table"
    yield Broken("dtype", "DT-001", says, revised(of_tensor(0, dtype="complex64")))
    key = "streams/params/float32"
    yield Broken(
        "element_type",
        *("DT-002", "a lane of float32 that holds int32"),
        hdf5=h5.replaced(key, "<i4", (1, 4), fletcher32=True),
        zarr=zr.edited(key, data_type="int32", fill_value=-(2**31)),
    )
    says = "a big-endian lane"
    spoil = h5.replaced(key, ">f4", (1, 4), fletcher32=True)
    yield only_hdf5("big_endian", "DT-002", says, spoil)
    yield Broken(
        "dtype_attribute",
        *("DT-003", "a lane's attribute 'dtype' names another"),
        hdf5=h5.attribute(key, "dtype", "float64"),
        zarr=zr.edited(key, attributes={"dtype": "float64"}),
    )


def commits() -> Iterator[Broken]:
    """Commit records."""

    def torn(image: Image) -> None:
        image.tables["commits"][1, 5] += 1

    yield Broken("torn_amid", "COM-001", "a commit record torn, a valid one after it", torn)

    def last_flipped(image: Image) -> None:
        image.tables["commits"][-1, 1] ^= 4

    says = "a bit flipped in the last commit record"
    yield Broken("flipped_record", "COM-001", says, last_flipped)

    def renumbered(image: Image) -> None:
        edit_records(image, lambda body: put(body, {0: 7}), 1)

    yield Broken("numbers", "COM-001", "a commit numbered otherwise than its row", renumbered)
    yield Broken(
        "rows_lacking",
        *("COM-002", "a commit counts more scalars than there are"),
        lambda image: edit_records(image, lambda body: put(body, {4: 500}), 2),
    )
    back = [Commit(5, {"params": 1}), Commit(3, {"gradients": 1})]
    says = "a commit's step is before that of the one before"
    yield Broken("steps_decrease", "COM-003", says, run=pair(back))
    says = "a row at a step of no commit"
    yield Broken("row_of_no_commit", "COM-004", says, rekeyed("params", [0, 1, 9]))
    says = "scalars at a step of no commit"
    yield Broken("scalars_of_no_commit", "COM-005", says, scalars_at([0, 1, 9]))
    yield Broken("scalars_twice", "COM-005", "scalars at a step twice", scalars_at([0, 1, 1]))
    says = "a commit at the time 0"
    zero: Change = lambda image: edit_records(image, lambda body: put(body, {2: 0}), 1)  # noqa: E731
    yield Broken("time_0", "COM-006", says, zero)
    says = "the manifest lists fewer streams than the commit records count"
    yield Broken("streams_lacking", "COM-007", says, revised(lambda r: r["streams"].pop()))
    fewer: Change = lambda image: edit_records(image, lambda body: put(body, {5: 1}), 2)  # noqa: E731
    yield Broken("rows_taken_back", "COM-008", "a later commit counts fewer rows", fewer)


def rewinds() -> Iterator[Broken]:
    """Rewinds that do not restate what was."""

    def more_rows(image: Image) -> None:
        rewind(image)
        edit_records(image, lambda body: put(body, {5: 4}), 7)

    says = "a rewind to step 3 that keeps a fourth row"
    yield Broken("rewind_misstates", "COM-008", says, more_rows, run=rewound())


def checksums() -> Iterator[Broken]:
    """Bytes that are not those that were committed."""
    for name, key, place in (
        ("manifest", "manifest", 40),
        ("keys", "streams/params/step", 8),
        ("samples", "streams/gradient_samples/sample", 4),
        ("scalars", "scalars/value", 5),
        ("scalar_steps", "scalars/step", 0),
    ):
        yield Broken(f"flipped_{name}", "SUM-001", f"a bit flipped in {key}", flipped(key, place))
    other = {"uuid": "00000000-0000-4000-8000-000000000000", "format_version": [1, 0]}
    says = "the manifest repeats another uuid than the root attributes have"
    yield Broken("identity", "SUM-004", says, run=base(identity=other))
    key = "streams/params/float32"
    yield Broken(
        "row_missing",
        *("SUM-002", "a committed row is not there"),
        hdf5=h5.chunk_removed(key, 1),
        zarr=lambda path: (path / key / "c.1.0").unlink(),
    )
    yield Broken(
        "chunk_missing",
        *("SUM-002", "the second chunk of a committed row is not there"),
        hdf5=h5.second_chunk_missing,
        zarr=zr.reindexed(key, 1, entry=1),
        style=replace(SMALL, shard=2),
    )
    for name, style in (
        ("", SMALL),
        ("_gzip", PACKED),
        ("_zstd", replace(SMALL, compression="zstd")),
    ):
        yield Broken(
            f"flipped_lane{name}",
            *("SUM-003", "a bit flipped in a lane"),
            hdf5=h5.chunk_flipped(key, 1),
            zarr=zr.byte_flipped(f"{key}/c.1.0", 2),
            style=style,
        )
    for kind in ("gzip", "zstd"):
        yield Broken(
            f"bomb_{kind}",
            *("SUM-003", "a chunk that inflates to 16 MiB, its checksum right"),
            hdf5=h5.bomb(key, kind),
            zarr=zr.bomb(key, kind),
            style=replace(SMALL, compression=kind),
        )
    says = "a chunk that inflates to less than a chunk, its checksum right"
    yield Broken(
        *("short_gzip", "SUM-003", says),
        hdf5=h5.bomb(key, "gzip", 5),
        zarr=zr.bomb(key, "gzip", 5),
        style=PACKED,
    )
    says = "the index of a shard fails its checksum"
    yield only_zarr("flipped_index", "SUM-003", says, zr.byte_flipped(f"{key}/c.1.0", -6))
    says = "a shard's index places a chunk beyond its end, its checksum right"
    place = struct.pack("<QQ", 8, 2**40)
    yield only_zarr("index_beyond", "SUM-003", says, zr.reindexed(key, 1, entry=0, value=place))
    says = "a chunk of a table is cut short"
    yield only_zarr("table_cut", "SUM-003", says, zr.cut("scalars/step/c.0", 30))


def hdf5() -> Iterator[Broken]:
    """HDF5 alone."""
    lane, step = "streams/params/float32", "streams/params/step"
    yield only_hdf5("external_storage", "H5-001", "data in another file", h5.external(step))
    yield only_hdf5("virtual", "H5-001", "a virtual dataset", h5.virtual(step))
    yield only_hdf5("soft_link", "H5-002", "a soft link", h5.soft_link)
    yield only_hdf5("external_link", "H5-002", "a link into another file", h5.external_link)
    yield only_hdf5("hard_link", "H5-003", "an array linked twice", h5.hard_link("manifest"))
    yield only_hdf5("cycle", "H5-003", "a group within itself", h5.hard_link("streams"))
    yield only_hdf5("deep", "H5-004", "groups nested 40 deep", h5.deep)
    yield only_hdf5("committed_type", "H5-005", "a committed datatype", h5.committed_type(step))
    spoil = h5.replaced(lane, "<f4", (1, 4), compression="lzf")
    yield only_hdf5("filter_lzf", "H5-006", "a filter of another kind", spoil)
    says = "a lane without checksums"
    yield only_hdf5("no_checksum", "H5-007", says, h5.replaced(lane, "<f4", (1, 4)))
    says = "the checksum comes before the compression"
    yield only_hdf5("checksum_first", "H5-007", says, h5.checksum_first(lane))
    says = "a table is compressed"
    spoil = h5.replaced(step, "<i8", (2,), compression="gzip")
    yield only_hdf5("filtered_table", "H5-008", says, spoil)
    yield only_hdf5("contiguous", "H5-009", "a table that is not chunked", h5.replaced(step, "<i8"))
    says = "a table that cannot grow"
    yield only_hdf5("fixed", "H5-009", says, h5.replaced(step, "<i8", (2,), grows=False))
    says = "a dataset for columns that join which can't get wider than four"
    yield only_hdf5("joined_fixed", "H5-009", says, h5.fixed_width(lane, 4))
    says = "a lane with two rows in a chunk"
    spoil = h5.replaced(lane, "<f4", (2, 4), fletcher32=True)
    yield only_hdf5("rows_in_a_chunk", "H5-010", says, spoil)
    says = "a committed chunk that skipped the checksum"
    yield only_hdf5("filter_skipped", "H5-011", says, h5.filter_skipped(lane))
    says = "an attribute of variable-length text"
    yield only_hdf5("variable_text", "H5-012", says, h5.variable_text)
    yield only_hdf5("superblock_0", "H5-013", "a superblock of version 0", h5.superblock_0)
    yield only_hdf5("user_block", "CORE-002", "512 bytes before the superblock", h5.user_block)


def zarr() -> Iterator[Broken]:
    """Zarr alone."""
    lane, step = "streams/params/float32", "streams/params/step"
    says = "a symbolic link in place of a chunk"
    yield only_zarr("linked_chunk", "ZR-001", says, zr.linked(f"{lane}/c.1.0", "c.0.0"))
    says = "a symbolic link in place of a folder"
    yield only_zarr(
        "linked_folder", "ZR-001", says, zr.linked("streams/gradient_samples", "params")
    )
    says = "an array's zarr.json is cut short"
    yield only_zarr("document_cut", "ZR-002", says, zr.cut(f"{step}/zarr.json", 100))
    says = "a group without zarr.json"
    yield only_zarr("no_group", "ZR-003", says, lambda p: (p / "streams/zarr.json").unlink())
    grid = {"name": "regular", "configuration": {"chunk_shape": [4, 4]}}
    yield only_zarr("grid", "ZR-004", "chunks of two dimensions", zr.edited(step, chunk_grid=grid))
    encoding = {"name": "default", "configuration": {"separator": "/"}}
    says = "chunk keys separated by slashes"
    yield only_zarr("chunk_keys", "ZR-005", says, zr.edited(step, chunk_key_encoding=encoding))
    says = "a storage transformer"
    spoil = zr.edited(step, storage_transformers=[{"name": "cipher"}])
    yield only_zarr("transformer", "ZR-006", says, spoil)
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    other = [little, {"name": "blosc", "configuration": {"cname": "lz4"}}]
    yield only_zarr("codec", "ZR-007", "a codec of another kind", zr.edited(step, codecs=other))
    says = "a lane of blosc in what is no archive"
    blosc = replace(SMALL, compression="blosc")
    yield only_zarr("blosc", "ZR-007", says, lambda path: None, style=blosc)
    says = "a lane without checksums"
    yield only_zarr("no_crc", "ZR-008", says, zr.inner(lane, codecs=[little]))
    says = "a shard's index at its start"
    yield only_zarr("index_at_start", "ZR-008", says, zr.inner(lane, index_location="start"))
    grid = {"name": "regular", "configuration": {"chunk_shape": [2, 4]}}
    says = "a shard of two rows"
    yield only_zarr("rows_in_a_shard", "ZR-009", says, zr.edited(lane, chunk_grid=grid))
    says = "a compressed table"
    packed = [little, {"name": "gzip", "configuration": {"level": 5}}]
    yield only_zarr("compressed_table", "ZR-010", says, zr.edited(step, codecs=packed))
    big = [{"name": "bytes", "configuration": {"endian": "big"}}]
    yield only_zarr("big_endian_table", "ZR-010", "big-endian steps", zr.edited(step, codecs=big))
    grid = {"name": "regular", "configuration": {"chunk_shape": [2**25]}}
    says = "a chunk of 2^25 steps"
    yield only_zarr("huge_chunk", "ZR-011", says, zr.edited(step, chunk_grid=grid))
    says = "a chunk of commit records is gone, a later one is there"
    each = replace(SMALL, table_rows=1)
    yield only_zarr("commits_amid", "COM-001", says, zr.without("commits/c.1.0"), style=each)
    yield only_zarr("fill_value", "ZR-012", "a fill value of 0", zr.edited(lane, fill_value=0))


BROKEN = (*core(), *structure(), *dtypes(), *commits(), *rewinds(), *checksums(), *hdf5(), *zarr())
