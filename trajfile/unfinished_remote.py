"""A trajectory on its way into a store: at its place, but without what makes it a trajectory."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from trajfile.containers import Compression
from trajfile.containers.bucket import Bucket
from trajfile.containers.identity import Attributes
from trajfile.containers.journal import Journal
from trajfile.containers.lease import Lease
from trajfile.containers.store import ArrayStore
from trajfile.containers.zarr_remote import Draft
from trajfile.errors import UsageError
from trajfile.schema import Manifest
from trajfile.unfinished import NOTE, copied_of, known_facts, note_of


class UnfinishedRemote:
    """What `trajfile.unfinished.Unfinished` is for a local path.

    A store cannot rename. So the copy grows where it will lie, and the root's document, without
    which readers take it for one that is being created, is put when it is whole and read back.

    Args:
        url: The address.
        facts: What tells this conversion from any other, as JSON.
        replace: Whether a trajectory that is there may be deleted, when the copy begins.

    Attributes:
        folder: Where it grows.
        path: The same.
        copied: As of `Unfinished`.
    """

    def __init__(self, url: str, facts: dict[str, Any], *, replace: bool):
        self.folder = self.path = url
        self.copied: int | None = None
        self._facts, self._replace = known_facts(facts), replace
        self._bucket = Bucket(url, writing=True)
        self._note = self._bucket.prefix / NOTE

    def __enter__(self) -> Self:
        """Take the place, and whatever is in it of the same conversion."""
        self._lease = Lease(self._bucket)
        self._draft = Draft(self.path, self._lease)
        try:
            self.copied = copied_of(self._facts, self._bucket.get(self._note))
        except FileNotFoundError:
            self.copied = None
        if self._draft.is_published():
            self.copied = None
            if not self._replace:
                self.__exit__(None, None, None)
                raise UsageError(f"{self.path} exists already")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of it; what is unfinished stays."""
        self._lease.release()
        self._bucket.close()

    def store(
        self, manifest: Manifest, identity: Attributes, compression: Compression, *, again: bool
    ) -> ArrayStore:
        """The arrays of the copy, just created or taken up again."""
        if again:
            return self._draft.again(identity)
        return self._draft.begin(manifest, identity, compression, replace=self._replace)

    def open(self, identity: Attributes) -> Journal:
        """The copy, to be read back."""
        return self._draft.open(identity)

    def restart(self) -> None:
        """Forget whatever is there."""
        self.copied = None

    def note(self, copied: int) -> None:
        """Write down how many blocks are there."""
        self._bucket.put(self._note, [note_of(self._facts, copied)])

    def finish(self, identity: Attributes) -> None:
        """Make it a trajectory."""
        self._draft.publish(identity)
        self._bucket.delete([self._note])

    def discard(self) -> None:
        """Remove the copy."""
        self._draft.discard()
