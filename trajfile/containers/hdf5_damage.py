"""What the HDF5 library raises over damaged bytes, told as the damage it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trajfile.errors import Damaged, TrajfileError

# The library's own error stack arrives under a class that h5py picks by the innermost message, so
# the same damage may come as any of these.
LIBRARY_FAILURES = (RuntimeError, OSError, KeyError, ValueError, TypeError)


@contextmanager
def failures_as_damage(path: Path, place: str = "/", rule: str = "CORE-006") -> Iterator[None]:
    """Turn every failure of the HDF5 library to read into a `Damaged`.

    Args:
        path: The file that is being read.
        place: What of it.
        rule: The id of the rule that is then broken.

    Yields:
        Nothing.

    Raises:
        Damaged: If the library gave up.
        TrajfileError: What was raised within, as it was.
    """
    try:
        yield
    except TrajfileError:  # among them ValueErrors, already said well
        raise
    except LIBRARY_FAILURES as error:
        text = " ".join(str(error).split()) or repr(error)
        raise Damaged(
            f"{path}, {place} cannot be read, its bytes are damaged ({text}); restore the file "
            "from a copy",
            path=path,
            location=place,
            rule=rule,
        ) from error
