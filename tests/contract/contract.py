"""What every container must do. A container's test inherits this class and says how to make one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.contract.runs import EVERY_DTYPE, Expected, every_dtype_run, random_rows, read, stream
from trajfile.containers.base import Commit, Container, Rows
from trajfile.containers.digest import digest
from trajfile.containers.memory import MemoryContainer
from trajfile.errors import RecordError, ShapeMismatch, UndeclaredStream
from trajfile.schema import ABSENT_BITS, Manifest


class ContainerContract:
    """Inherited by one test class for each container and compression."""

    def make(self, folder: Path, manifest: Manifest, name: str = "run") -> Container:
        """A new, empty container."""
        raise NotImplementedError  # abstract

    def again(self, container: Container, *, writable: bool = False) -> Container:
        """The container, closed and opened once more."""
        raise NotImplementedError  # abstract

    def test_holds_nothing_at_first(self, tmp_path: Path) -> None:
        container = self.again(self.make(tmp_path, EVERY_DTYPE))
        Expected.of(EVERY_DTYPE, []).check(container)
        container.close()

    def test_closing_twice_does_nothing(self, tmp_path: Path) -> None:
        container = self.make(tmp_path, EVERY_DTYPE)
        container.append(every_dtype_run()[0])
        for writable in (False, True, False):
            container.close()
            container.close()
            container = self.again(container, writable=writable)
        Expected.of(EVERY_DTYPE, every_dtype_run()[:1]).check(container)
        container.close()

    def test_gives_back_every_bit_of_every_dtype(self, tmp_path: Path) -> None:
        container = self.make(tmp_path, EVERY_DTYPE)
        commits = every_dtype_run()
        for number, commit in enumerate(commits, 1):
            container.append(commit)
            Expected.of(EVERY_DTYPE, commits[:number]).check(container)
        container = self.again(container)
        Expected.of(EVERY_DTYPE, commits).check(container)
        container.close()

    @pytest.mark.parametrize("cut", [0, 1, 6, 7, 9])
    def test_goes_on_after_reopening(self, tmp_path: Path, cut: int) -> None:
        commits = every_dtype_run()
        container = self.make(tmp_path, EVERY_DTYPE)
        for commit in commits[:cut]:
            container.append(commit)
        container = self.again(container, writable=True)
        Expected.of(EVERY_DTYPE, commits[:cut]).check(container)
        for commit in commits[cut:]:
            container.append(commit)
        container = self.again(container)
        Expected.of(EVERY_DTYPE, commits).check(container)
        container.close()

    def test_digest_is_that_of_the_reference(self, tmp_path: Path) -> None:
        container = self.make(tmp_path, EVERY_DTYPE)
        reference = MemoryContainer(EVERY_DTYPE)
        seen = {digest(container)}
        for commit in every_dtype_run():
            container.append(commit)
            reference.append(commit)
            assert digest(container) == digest(reference)
            seen.add(digest(container))
        assert len(seen) == 11
        container = self.again(container)
        assert digest(container) == digest(reference)
        container.close()

    def test_reads_any_block_of_a_wide_lane(self, tmp_path: Path) -> None:
        columns = 2 * 262144 + 5
        manifest = Manifest((stream("params", ("w", (columns,), "float16")),))
        container = self.make(tmp_path, manifest)
        rng = np.random.default_rng(1)
        commits = [Commit(k, {"params": random_rows(manifest.streams[0], rng)}) for k in range(4)]
        for commit in commits:
            container.append(commit)
        container = self.again(container)
        assert container.chunk_columns("params", "float16") == 174765  # ceil(524293 / 3)
        whole = Expected.of(manifest, commits).lane("params", "float16")
        edges = [0, 1, 174764, 174765, 174766, 349530, 524292, columns]
        for start in edges:
            for stop in edges[edges.index(start) :]:
                for rows in (slice(0, 4), slice(1, 3), slice(3, 4), slice(2, 2)):
                    found = read(container, "params", "float16", rows, slice(start, stop))
                    np.testing.assert_array_equal(found, whole[rows, start:stop])
        container.close()

    def test_keeps_rows_of_zeros(self, tmp_path: Path) -> None:
        manifest = Manifest((stream("params", ("w", (6,), "float32"), ("i", (6,), "int8")),))
        container = self.make(tmp_path, manifest)
        zeros = Rows({"float32": np.zeros((1, 6), np.float32), "int8": np.zeros((1, 6), np.int8)})
        for step in range(3):
            container.append(Commit(step, {"params": zeros}))
        container = self.again(container)
        assert not read(container, "params", "float32").any()
        assert read(container, "params", "int8").shape == (3, 6)
        container.close()

    def test_widens_far_beyond_a_chunk(self, tmp_path: Path) -> None:
        narrow = Manifest((stream("params", ("head", (3,), "float32")),))
        wide = Manifest(
            (stream("params", ("head", (3,), "float32"), ("body", (1000,), "float32", 2)),)
        )
        rng = np.random.default_rng(2)
        commits = [
            Commit(k, {"params": random_rows(m.streams[0], rng)}, {}, wide if k == 2 else None)
            for k, m in enumerate([narrow, narrow, wide, wide])
        ]
        container = self.make(tmp_path, narrow)
        for commit in commits:
            container.append(commit)
        container = self.again(container)
        expected = Expected.of(narrow, commits)
        expected.check(container)
        block = read(container, "params", "float32", slice(0, 4), slice(2, 500))
        np.testing.assert_array_equal(block, expected.lane("params", "float32")[:, 2:500])
        beyond = read(container, "params", "float32", slice(0, 2), slice(3, 1003))
        assert not beyond.any()
        container.close()

    def test_commits_without_rows_and_streams_without_tensors(self, tmp_path: Path) -> None:
        manifest = Manifest((stream("params"),), ("loss",))
        commits = [Commit(0), Commit(3, {"params": Rows({})}), Commit(3, {}, {"loss": 1.0})]
        container = self.make(tmp_path, manifest)
        for commit in commits:
            container.append(commit)
        container = self.again(container)
        Expected.of(manifest, commits).check(container)
        container.close()

    def test_the_mark_of_absence_cannot_be_recorded(self, tmp_path: Path) -> None:
        manifest = Manifest((), ("loss",))
        container = self.make(tmp_path, manifest)
        container.append(Commit(0, {}, {"loss": np.uint64(ABSENT_BITS).view(np.float64)}))
        bits = container.scalars()[1].view(np.uint64)
        assert bits[0, 0] != ABSENT_BITS
        assert np.isnan(container.scalars()[1][0, 0])
        container.close()

    def test_many_small_steps(self, tmp_path: Path) -> None:
        manifest = Manifest((stream("params", ("w", (2,), "float64")),), ("loss",))
        rng = np.random.default_rng(3)
        commits = [
            Commit(k, {"params": random_rows(manifest.streams[0], rng)}, {"loss": float(k)})
            for k in range(530)  # beyond a chunk of every table
        ]
        container = self.make(tmp_path, manifest)
        for commit in commits[:400]:
            container.append(commit)
        container = self.again(container, writable=True)
        for commit in commits[400:]:
            container.append(commit)
        container = self.again(container)
        Expected.of(manifest, commits).check(container)
        container.close()

    def test_refuses_what_does_not_fit_and_stays_as_it_was(self, tmp_path: Path) -> None:
        manifest = Manifest((stream("params", ("w", (4,), "float32")),), ("loss",))
        container = self.make(tmp_path, manifest)
        good = Commit(0, {"params": Rows({"float32": np.ones((1, 4), np.float32)})})
        container.append(good)
        wrong: list[tuple[type[RecordError], Commit]] = [
            (ShapeMismatch, Commit(1, {"params": Rows({"float32": np.ones((1, 5), np.float32)})})),
            (ShapeMismatch, Commit(1, {"params": Rows({"float32": np.ones((1, 4), np.int32)})})),
            (ShapeMismatch, Commit(1, {"params": Rows({})})),
            (UndeclaredStream, Commit(1, {"updates": Rows({})})),
            (RecordError, Commit(1, {}, {"accuracy": 1.0})),
            (RecordError, Commit(1, {}, {}, Manifest())),
            (
                RecordError,
                Commit(
                    1,
                    {},
                    {},
                    Manifest((stream("params", ("w", (4,), "float32"), ("x", (1,), "int8", 1)),)),
                ),
            ),
        ]
        for error, commit in wrong:
            with pytest.raises(error, match="step 1"):
                container.append(commit)
        Expected.of(manifest, [good]).check(container)
        container.append(good)
        container = self.again(container)
        Expected.of(manifest, [good, good]).check(container)
        container.close()
