"""What the HDF5 library is asked for at once is what its wrapper says of each chunk."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from trajfile.containers import checksum, hdf5_places
from trajfile.containers.hdf5_places import stored_chunks


@pytest.fixture(autouse=True)
def compiled() -> None:
    if not checksum.prepare() or hdf5_places._function() is None:
        pytest.skip("without Numba the wrapper is asked")


@pytest.fixture
def dataset(tmp_path: Path) -> h5py.h5d.DatasetID:
    """Of 13 x 50 in chunks of 2 x 7, some of them missing and one without its checksum."""
    with h5py.File(tmp_path / "x.h5", "w", libver="v110") as file:
        made = file.create_dataset(
            "x", (13, 50), "f4", chunks=(2, 7), maxshape=(None, None), fletcher32=True
        )
        made[:6] = np.arange(300, dtype="f4").reshape(6, 50)
        made[10:, 20:] = 1
        made.id.write_direct_chunk((8, 14), bytes(56), filter_mask=1)
    with h5py.File(tmp_path / "x.h5") as file:
        yield file["x"].id


def test_all_chunks_are_told_as_the_wrapper_tells_them(dataset: h5py.h5d.DatasetID) -> None:
    found = stored_chunks(dataset)
    np.testing.assert_array_equal(found, hdf5_places._listed(dataset))
    assert len(found) == dataset.get_num_chunks() == 3 * 8 + 2 * 6 + 1
    assert found[found[:, 2] != 0].tolist()[0][:3] == [8, 14, 1]


def test_of_more_chunks_than_there_is_room_for_none_is_lost(
    dataset: h5py.h5d.DatasetID, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = hdf5_places._listed(dataset)
    for room in (0, 1, len(expected) - 1, len(expected)):
        monkeypatch.setattr(hdf5_places, "_ROOM", room)
        np.testing.assert_array_equal(stored_chunks(dataset), expected)


def test_a_dataset_without_chunks_has_none(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        made = file.create_dataset("x", (0, 5), "f4", chunks=(1, 5), maxshape=(None, 5))
        assert stored_chunks(made.id).shape == (0, 5)


def test_where_the_library_fails_or_says_otherwise_the_wrapper_is_asked(
    dataset: h5py.h5d.DatasetID, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = hdf5_places._listed(dataset)
    function = hdf5_places._function()

    def saying(change: Callable[[np.ndarray], None]) -> Callable[..., int]:
        """The library's function, but for what it says of chunks, shape (chunks, 5)."""

        def other(*arguments: int) -> int:
            done = function(*arguments)
            place, count = arguments[3], len(expected)
            into = np.ctypeslib.as_array((ctypes.c_uint64 * (2 + 5 * count)).from_address(place))
            change(into[2:].reshape(count, 5))
            return done

        return other

    def swapped(chunks: np.ndarray) -> None:
        chunks[:, 3:] = chunks[:, :2:-1].copy()

    def in_chunks(chunks: np.ndarray) -> None:
        chunks[:, :2] //= np.array([2, 7], np.uint64)

    def in_bytes(chunks: np.ndarray) -> None:
        chunks[:, :2] *= np.uint64(4)

    def across_first(chunks: np.ndarray) -> None:
        chunks[:, :2] = chunks[:, 1::-1].copy()

    asked = []
    listed = hdf5_places._listed
    monkeypatch.setattr(hdf5_places, "_listed", lambda d: asked.append(d) or listed(d))
    others = [saying(change) for change in (swapped, in_chunks, in_bytes, across_first)]
    for other in (lambda *_: -1, *others, None):
        monkeypatch.setattr(hdf5_places, "_function", lambda other=other: other)
        np.testing.assert_array_equal(stored_chunks(dataset), expected)
    assert len(asked) == 6
