"""At most one writer of a trajectory in a store: an object that names it and that it renews.

Nothing in a store goes with the process that made it, so what a killed writer leaves is told by its
not being renewed. A writer that was merely held up for so long must do no harm when it wakes: see
`trajfile.containers.objects`.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from uuid import uuid4

import msgspec

from trajfile.containers.bucket import Bucket, Conflict
from trajfile.errors import ResourceError, TrajfileError, UsageError

LEASE = "writer.lock"
#: Seconds for which a writer that is not heard of is still taken to be there.
SECONDS = 30.0
#: An object as old as this by the store's clock is not waited for: clocks differ less (a request
#: whose clock is off by a quarter of an hour is refused).
_LONG_AGO = 1800.0


class Holder(msgspec.Struct, frozen=True):
    """Who writes.

    Attributes:
        owner: Drawn anew by each writer.
        host: Name of its machine, for people.
        machine: What tells its machine and its view of processes from any other.
        pid: Its process.
        started: When that process began, by its machine's clock.
        renewed: How often it was heard of.
    """

    owner: str
    host: str
    machine: str
    pid: int
    started: str
    renewed: int = 0


class Lease:
    """Holds a trajectory in a store until released; renewed by a thread of its own.

    Args:
        bucket: Where; for writing.

    Attributes:
        taken_over: Whether another writer left without releasing it.

    Raises:
        ResourceError: If another writer holds it, or the store does not answer.
        UsageError: If there is no such bucket, or the store cannot tell two writers apart.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket, self._key = bucket, bucket.prefix / LEASE
        machine = _machine()
        self._me = Holder(
            uuid4().hex, socket.gethostname(), machine, os.getpid(), _started(os.getpid())
        )
        self.taken_over = False
        self._lost = False
        self._tag = self._acquire()
        self._over = Event()
        self._thread = Thread(target=self._renew_for_ever, name="trajfile-lease", daemon=True)
        self._thread.start()

    def verify(self) -> None:
        """Look whether this writer is still the one; ResourceError if it is not."""
        if not self._lost:
            try:
                data, _ = self._bucket.whole(self._key)
                self._lost = _parsed(data).owner != self._me.owner
            except FileNotFoundError:
                self._lost = True
        self.check()

    def check(self) -> None:
        """Raise ResourceError if it is known that another writer has taken over."""
        if self._lost:
            raise ResourceError(
                f"{self._bucket.url}: another writer has taken over, since this one was not heard "
                f"of for {SECONDS:g} s or its {LEASE} was removed; what it had committed stays. "
                "Open it again with mode='a' once the other is done"
            )

    def release(self) -> None:
        """Let another writer have it at once."""
        self._over.set()
        self._thread.join(SECONDS)
        with suppress(TrajfileError):  # it runs out by itself
            self.verify()
            self._bucket.delete([self._key])
        self._lost = True

    def _acquire(self) -> str:
        while True:
            try:
                tag = self._bucket.put(self._key, [self._text()], over="")
            except FileNotFoundError:
                raise UsageError(
                    f"{self._bucket.url}: there is no such bucket; create it first"
                ) from None
            except Conflict:
                with suppress(FileNotFoundError):
                    return self._take_over()
                continue  # released just now
            self._probe()
            return tag

    def _take_over(self) -> str:
        """Take it from a writer that is gone; a refusal if it is not."""
        data, tag = self._bucket.whole(self._key)
        holder = _parsed(data)
        if not self._gone(holder):
            local = bool(holder.machine) and holder.machine == self._me.machine
            age = time.time() - self._bucket.modified(self._key)
            if local or (age < _LONG_AGO and self._renewed_within(SECONDS, tag)):
                raise ResourceError(
                    f"{self._bucket.url} is open in another writer (process {holder.pid} on "
                    f"{holder.host}): wait for it, or record into a new trajectory"
                )
        try:
            new = self._bucket.put(self._key, [self._text()], over=tag)
        except Conflict:
            raise ResourceError(
                f"{self._bucket.url} has just been opened in another writer: wait for it, or "
                "record into a new trajectory"
            ) from None
        self.taken_over = True
        return new

    def _gone(self, holder: Holder) -> bool:
        """Whether a holder was a process of this machine that has ended."""
        here = bool(holder.machine) and holder.machine == self._me.machine
        return here and bool(holder.started) and _started(holder.pid) != holder.started

    def _renewed_within(self, seconds: float, tag: str) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(1.0, seconds / 10))
            if self._bucket.whole(self._key)[1] != tag:
                return True
        return False

    def _probe(self) -> None:
        """Refuse a store that ignores what a put is conditional on: it would let two write."""
        for over in ("", '"00000000000000000000000000000000"'):
            self._me = msgspec.structs.replace(self._me, renewed=self._me.renewed + 1)
            try:
                self._bucket.put(self._key, [self._text()], over=over)
            except Conflict:
                continue
            self._bucket.delete([self._key])
            raise UsageError(
                f"{self._bucket.url}: this store does not heed conditions on what it writes "
                "(If-None-Match and If-Match), so two writers could not be told apart; record to "
                "a local path and copy it there"
            )

    def _renew_for_ever(self) -> None:
        while not self._over.wait(SECONDS / 4):
            self._me = msgspec.structs.replace(self._me, renewed=self._me.renewed + 1)
            try:
                self._tag = self._bucket.put(self._key, [self._text()], over=self._tag)
            except Conflict:
                self._lost = True
                return
            except (TrajfileError, FileNotFoundError):
                continue  # the store is away: tried again, and appending says so

    def _text(self) -> bytes:
        return msgspec.json.encode(self._me)


def _parsed(data: bytes) -> Holder:
    try:
        return msgspec.json.decode(data, type=Holder)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Holder("", "an unknown machine", "", 0, "")


def _machine() -> str:
    """This boot of this machine, and these processes of it (a container numbers its own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process began; empty if there is none, or this system does not say."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = status.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]  # one that waits to be buried is gone
