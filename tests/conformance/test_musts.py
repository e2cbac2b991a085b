"""Every MUST of the specification has a rule that files are checked by, or a test of a program."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

import trajfile

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "spec" / "format.md").read_text()
BAD_INPUT = "tests/conformance/test_bad_input.py"
ON_DISK = "tests/contract/on_disk.py"
EVERY_BIT = "tests/contract/contract.py::test_gives_back_every_bit_of_every_dtype"

#: What holds this reader and this writer to what they MUST do.
DUTIES = {
    "READ-001": [EVERY_BIT],
    "READ-002": [f"{BAD_INPUT}::test_a_shape_beyond_all_bytes_in_hdf5"],
    "READ-003": ["tests/unit/test_schema.py::test_unknown_fields_are_ignored"],
    "READ-004": [f"{BAD_INPUT}::test_commit_records"],
    "READ-005": [
        f"{BAD_INPUT}::test_a_bit_flips_in_a_table",
        f"{BAD_INPUT}::test_a_bit_flips_in_a_lane_of_hdf5",
        f"{BAD_INPUT}::test_a_shard_goes_wrong",
    ],
    "READ-006": [
        f"{BAD_INPUT}::test_a_chunk_vanishes_from_hdf5",
        f"{BAD_INPUT}::test_a_chunk_is_missing_within_a_shard",
    ],
    "READ-007": [EVERY_BIT],
    "READ-008": [EVERY_BIT],
    "READ-009": [f"{BAD_INPUT}::test_truncated_hdf5_at_any_length"],
    "READ-010": [f"{BAD_INPUT}::test_versions_and_features"],
    "READ-011": [f"{BAD_INPUT}::test_a_pipe_for_a_file", f"{BAD_INPUT}::test_pipes_in_zarr"],
    "READ-012": [f"{BAD_INPUT}::test_links_in_hdf5", f"{BAD_INPUT}::test_symbolic_links_in_zarr"],
    "READ-013": [f"{BAD_INPUT}::test_a_shape_beyond_all_bytes_in_hdf5"],
    "READ-014": [f"{BAD_INPUT}::test_a_compressed_chunk_inflates_beyond_its_size"],
    "READ-015": ["tests/conformance/test_vectors.py::test_both_readers_pass_as_the_readme_has_it"],
    "WRITE-001": [f"{ON_DISK}::test_readers_in_another_process_a_kill_and_a_resume"],
    "WRITE-002": [f"{ON_DISK}::test_a_reader_sees_the_last_commit_as_of_opening"],
    "WRITE-003": [f"{ON_DISK}::test_readers_in_another_process_a_kill_and_a_resume"],
    "WRITE-004": ["tests/conformance/test_musts.py::test_recording_creates_no_object"],
    "WRITE-005": [f"{ON_DISK}::test_readers_in_another_process_a_kill_and_a_resume"],
    "WRITE-006": ["tests/conformance/test_archive.py::test_an_archive_cannot_be_appended_to"],
    "WRITE-007": ["tests/durability/test_refused_writes.py::test_goes_on_after_a_refused_write"],
}

_ID = re.compile(r"\[((?:CORE|STR|DT|COM|SUM|H5|ZR|READ|WRITE)-\d{3})\]")


def sentences() -> list[str]:
    """The sentences and list items of the normative sections."""
    body = TEXT.partition("## 1. Model")[2].partition("## 9. Rules")[0]
    body += TEXT.partition("## 11. Archives")[2]
    return re.split(r"(?<=[.:;|]) (?=[A-Z])|\n", body)


def test_every_must_carries_an_id() -> None:
    musts = [sentence for sentence in sentences() if "MUST" in sentence]
    assert len(musts) > 40
    without = [s for s in musts if not _ID.search(s) and s != "A reader MUST:"]
    assert not without


def test_the_ids_of_duties_are_those_that_are_tested() -> None:
    stated = {found for found in _ID.findall(TEXT) if found.startswith(("READ", "WRITE"))}
    assert stated == set(DUTIES)


@pytest.mark.parametrize("duty", DUTIES)
def test_a_test_stands_behind_each_duty(duty: str) -> None:
    for name in DUTIES[duty]:
        file, _, function = name.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text()


def test_recording_creates_no_object(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"

    def objects() -> set[str]:
        found: list[str] = []
        with h5py.File(path, "r", swmr=True) as file:
            file.visit(found.append)
        return set(found)

    with trajfile.Writer(path) as writer:
        writer.append(0, params={"w": np.ones(3, np.float32)}, scalars={"loss": 1.0})
        before = objects()
        joining = {"w": np.ones(3, np.float32), "late": np.ones(4, np.float32)}
        writer.append(1, params=joining, scalars={"loss": 1.0, "accuracy": 0.5})
    assert objects() == before
