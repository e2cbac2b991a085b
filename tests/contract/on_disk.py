"""What every container on a disk must do beyond the contract: others read it meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tests.contract.contract import ContainerContract
from tests.contract.runs import EVERY_DTYPE, LIVE, Expected, every_dtype_run, live_commits
from trajfile.containers import create, open_container
from trajfile.containers.base import Commit, Container
from trajfile.errors import ResourceError, UsageError
from trajfile.schema import Manifest


class OnDiskContract(ContainerContract):
    """Inherited by one test class for each container, compression and durability."""

    suffix: ClassVar[str]
    compression: ClassVar[str | None] = None
    durability: ClassVar[str] = "process"

    def place(self, folder: Path, name: str) -> str:
        return str(folder / (name + self.suffix))

    def make(self, folder: Path, manifest: Manifest, name: str = "run") -> Container:
        path = self.place(folder, name)
        return create(path, manifest, compression=self.compression, durability=self.durability)

    def again(self, container: Container, *, writable: bool = False) -> Container:
        container.close()
        return open_container(container.path, writable=writable, durability=self.durability)

    def test_keeps_its_identity(self, tmp_path: Path) -> None:
        made = self.make(tmp_path, EVERY_DTYPE)
        other = self.make(tmp_path, EVERY_DTYPE, "other")
        opened = self.again(made)
        assert (opened.uuid, opened.kind) == (made.uuid, made.kind)
        assert opened.format_version == (1, 0)
        assert opened.uuid != other.uuid
        assert opened.stored_bytes() > 0
        opened.close()
        other.close()

    def test_a_reader_sees_the_last_commit_as_of_opening(self, tmp_path: Path) -> None:
        commits = every_dtype_run()
        writer = self.make(tmp_path, EVERY_DTYPE)
        readers = []
        for commit in commits:
            readers.append(open_container(writer.path))
            writer.append(commit)
        readers.append(open_container(writer.path))
        for number, reader in enumerate(readers):
            Expected.of(EVERY_DTYPE, commits[:number]).check(reader)
            reader.close()
        writer.close()

    def test_readers_in_another_process_a_kill_and_a_resume(self, tmp_path: Path) -> None:
        path = self.place(tmp_path, "live")
        script = (
            "import sys; from tests.contract.runs import LIVE, live_commits\n"
            "from trajfile.containers import create\n"
            f"c = create({path!r}, LIVE, compression={self.compression!r})\n"
            "for commit in live_commits(200):\n"
            "    c.append(commit); print(commit.step, flush=True)\n"
            "    if commit.step % 25 == 24: sys.stdin.readline()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        ) as writer:
            assert writer.stdin is not None
            assert writer.stdout is not None
            commits = live_commits(200)
            readers = []  # some stay open, while others come and go
            for _ in range(6):
                for _ in range(24):
                    step = int(writer.stdout.readline())
                    if step % 8 == 0:
                        self._check_live(path, commits, at_least=step + 1)
                    if step % 50 == 20:
                        readers.append(open_container(path))
                assert int(writer.stdout.readline()) % 25 == 24
                writer.stdin.write("\n")
                writer.stdin.flush()
            for reader in readers:
                Expected.of(LIVE, commits[: len(reader.commits())]).check(reader)
                reader.close()
            with pytest.raises(ResourceError, match="another writer"):
                open_container(path, writable=True)
            last = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
        self._check_live(path, commits, at_least=last + 1)
        container = open_container(path, writable=True)
        committed = len(container.commits())
        for commit in commits[committed:]:
            container.append(commit)
        container = self.again(container)
        Expected.of(LIVE, commits).check(container)
        container.close()

    def _check_live(self, path: str, commits: list[Commit], at_least: int) -> None:
        reader = open_container(path)
        committed = len(reader.commits())
        assert committed >= at_least
        Expected.of(LIVE, commits[:committed]).check(reader)
        reader.close()

    def test_takes_no_more_once_closed_or_read_only(self, tmp_path: Path) -> None:
        container = self.make(tmp_path, LIVE)
        reader = self.again(container)
        for one in (container, reader):
            with pytest.raises(UsageError, match="not open for appending"):
                one.append(live_commits(1)[0])
        reader.close()

    def test_does_not_replace_what_exists(self, tmp_path: Path) -> None:
        self.make(tmp_path, LIVE).close()
        with pytest.raises(UsageError, match="exists already"):
            self.make(tmp_path, LIVE)

    def test_blocks_outside_are_refused(self, tmp_path: Path) -> None:
        container = self.make(tmp_path, LIVE)
        container.append(live_commits(1)[0])
        out = np.empty((1, 10), np.float32)
        for rows, columns in [
            (slice(1, 2), slice(0, 10)),
            (slice(0, 1), slice(4995, 5005)),
            (slice(0, 1), slice(0, 9)),
        ]:
            with pytest.raises(UsageError, match="holds 1 rows of 5000 columns"):
                container.read("params", "float32", rows, columns, out)
        container.close()
