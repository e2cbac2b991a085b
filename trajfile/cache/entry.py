"""An entry of the cache: what was measured, of what, as one file without code in it.

A file of NumPy's format ``.npz``, whose members carry a CRC-32 each: arrays, and one JSON document
that says what they are. Nothing is unpickled; what does not fit the document is not an entry.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Band, LayerBalance, Measurements, SampleGrams
from trajfile.engine.needs import Inner, LayerPair, Need, Row, SampleGram

SCHEMA: Final = "trajfile.measured/1"

_DOCUMENT = "document"
_BALANCE = ("frobenius", "diagonal_max", "trace", "law_residual", "law_change")

#: What reading a file may raise that is not, or no longer, an entry: beside what is raised on
#: purpose, whatever parsing chance bytes ends in (`tokenize.TokenError`, `struct.error`, ...).
NOT_AN_ENTRY = Exception


class StoredBand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `Band`: its lags and its tensors; the numbers are in arrays."""

    lags: list[int]
    tensor_lags: list[int]
    tensors: list[str]


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the arrays of an entry are.

    Attributes:
        schema: `SCHEMA`; another is refused.
        run: Which run, which selection of tensors, and how it was measured; equal for all
            entries that may stand for one another if their rows do.
        stamp: What the files looked like.
        commits: How many commits were there.
        history: A digest of them.
        device: What multiplied.
        per_tensor: Whether single tensors' values were kept.
        streams: The selected streams; of each its steps are an array.
        bands: By the name of a pair of rows.
        grams: Tensors with their own traces, if gradient samples were measured.
        layers: Names of the layer pairs.
        refused: By the name of a layer pair, why it was left out.
    """

    schema: Literal["trajfile.measured/1"]
    run: str
    stamp: str
    commits: int
    history: str
    device: str
    per_tensor: bool
    streams: list[str]
    bands: dict[str, StoredBand]
    grams: list[str] | None
    layers: list[str]
    refused: dict[str, str]


@dataclass(frozen=True)
class Origin:
    """Of what something was measured, as in `Document`."""

    run: str
    stamp: str
    commits: int
    history: str


def name_of(need: object) -> str:
    """A short name of a need, or of a pair of rows: equal for equal ones."""
    return blake2b(repr(need).encode(), digest_size=16).hexdigest()


def save(file: BinaryIO, origin: Origin, measured: Measurements, device: str) -> None:
    """Write an entry.

    Args:
        file: Where to.
        origin: Of what was measured.
        measured: What was measured.
        device: What multiplied.
    """
    arrays: dict[str, NDArray[Any]] = {}
    bands: dict[str, StoredBand] = {}
    for rows, band in measured.bands.items():
        name = name_of(rows)
        bands[name] = StoredBand([*band.lags], [*band.tensor_lags], [*band.tensors])
        arrays[f"{name}.total"] = band.total
        if band.tensors:
            arrays[f"{name}.tensors"] = np.stack([*band.tensors.values()])
    grams = measured.sample_grams.get(SampleGram())
    if grams is not None:
        arrays["grams.steps"] = grams.steps
        arrays["grams.sides"] = np.array([len(gram) for gram in grams.grams], np.int64)
        arrays["grams.values"] = np.concatenate(
            [np.empty(0), *(gram.ravel() for gram in grams.grams)]
        )
        arrays["grams.means"] = grams.mean_norm_squared
        if grams.tensors:
            arrays["grams.tensors"] = np.stack([*grams.tensors.values()])
    for pair, balance in measured.layer_balances.items():
        arrays[f"{name_of(pair)}.steps"] = balance.steps
        arrays[f"{name_of(pair)}.balance"] = np.stack([getattr(balance, n) for n in _BALANCE])
    streams = [*measured.header.steps]
    for number, stream in enumerate(streams):
        arrays[f"steps.{number}"] = measured.header.steps[stream]
    document = Document(
        *(SCHEMA, origin.run, origin.stamp, origin.commits, origin.history, device),
        per_tensor=measured.per_tensor_kept,
        streams=streams,
        bands=bands,
        grams=None if grams is None else [*grams.tensors],
        layers=[name_of(pair) for pair in measured.layer_balances],
        refused={name_of(pair): why for pair, why in measured.refused.items()},
    )
    arrays[_DOCUMENT] = np.frombuffer(msgspec.json.encode(document), np.uint8)
    np.savez(file, **arrays)  # type: ignore[arg-type]  # a name might be that of its option


class Entry:
    """An entry, opened; arrays are read when they are asked for.

    Whatever is asked of it may raise one of `NOT_AN_ENTRY`.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = path.open("rb")
        try:
            self._file = np.load(self._open, allow_pickle=False)
            _refuse_packed(self._file.zip)
            text = self._array(_DOCUMENT, np.uint8, 1).tobytes()
            self.document = msgspec.json.decode(text, type=Document)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    def steps(self) -> dict[str, NDArray[np.int64]]:
        """The steps of every selected stream, as they were measured."""
        streams = self.document.streams
        return {s: self._array(f"steps.{n}", np.int64, 1) for n, s in enumerate(streams)}

    def covers(self, needs: Iterable[Need]) -> bool:
        """Whether it answers some needs."""
        return all(self._covers(need) for need in needs)

    def _covers(self, need: Need) -> bool:
        match need:
            case Inner():
                band = self.document.bands.get(name_of((need.left, need.right)))
                if band is None or not set(need.lags) <= set(band.lags):
                    return False
                single = set(band.tensor_lags or band.lags)
                return not need.per_tensor or set(need.lags) <= single
            case SampleGram():
                return self.document.grams is not None
            case LayerPair():
                name = name_of(need)
                return name in self.document.layers or name in self.document.refused
        return False

    def measurements(self, header: Header, needs: Iterable[Need]) -> Measurements:
        """The answers to some needs.

        Args:
            header: The selection that they are of.
            needs: Needs that it `covers`.

        Returns:
            The answers, and no others.
        """
        wanted = [*needs]
        rows = {(n.left, n.right): None for n in wanted if isinstance(n, Inner)}
        layers = [need for need in wanted if isinstance(need, LayerPair)]
        refused = self.document.refused
        return Measurements(
            header=header,
            bands={pair: self._band(pair, header) for pair in rows},
            sample_grams={n: self._grams() for n in wanted if isinstance(n, SampleGram)},
            layer_balances={n: self._balance(n) for n in layers if name_of(n) not in refused},
            per_tensor_kept=self.document.per_tensor,
            refused={n: refused[name_of(n)] for n in layers if name_of(n) in refused},
        )

    def _band(self, rows: tuple[Row, Row], header: Header) -> Band:
        name = name_of(rows)
        stored = self.document.bands[name]
        total = self._array(f"{name}.total", np.float64, 2)
        if total.shape != (len(header.timeline_steps(rows[0].timeline)), len(stored.lags)):
            raise ValueError("the rows and lags are not those of the array")
        tensors: Mapping[str, NDArray[np.float64]] = {}
        if stored.tensors:
            lags = len(stored.tensor_lags or stored.lags)
            values = self._array(f"{name}.tensors", np.float64, 3)
            if values.shape != (len(stored.tensors), len(total), lags):
                raise ValueError("the tensors are not those of the array")
            tensors = dict(zip(stored.tensors, values, strict=True))
        return Band(tuple(stored.lags), total, tensors, tuple(stored.tensor_lags))

    def _grams(self) -> SampleGrams:
        steps = self._array("grams.steps", np.int64, 1)
        sides = self._array("grams.sides", np.int64, 1)
        values = self._array("grams.values", np.float64, 1)
        if len(sides) != len(steps) or int((sides**2).sum()) != len(values):
            raise ValueError("the Gram matrices are not those of the array")
        means = self._array("grams.means", np.float64, 1)
        if len(means) != len(steps):
            raise ValueError("the means are not those of the steps")
        parts = np.split(values, np.cumsum(sides**2)[:-1]) if len(sides) else []
        names = self.document.grams or []
        traces = self._array("grams.tensors", np.float64, 2) if names else np.empty((0, 0))
        if names and traces.shape != (len(names), len(steps)):
            raise ValueError("the traces are not those of the array")
        return SampleGrams(
            steps,
            tuple(p.reshape(side, side) for p, side in zip(parts, sides.tolist(), strict=True)),
            means,
            dict(zip(names, traces, strict=True)),
        )

    def _balance(self, need: LayerPair) -> LayerBalance:
        name = name_of(need)
        values = self._array(f"{name}.balance", np.float64, 2)
        steps = self._array(f"{name}.steps", np.int64, 1)
        if values.shape != (len(_BALANCE), len(steps)):
            raise ValueError("the balances are not those of the steps")
        return LayerBalance(steps, *values)

    def _array(self, name: str, dtype: Any, axes: int) -> NDArray[Any]:
        values = self._file[name]
        if not isinstance(values, np.ndarray) or values.dtype != dtype or values.ndim != axes:
            raise ValueError(f"{name} is no array of {np.dtype(dtype)} with {axes} axes")
        return values


def _refuse_packed(archive: zipfile.ZipFile) -> None:
    """Refuse members that might unpack to any size; `save` packs none."""
    if any(member.compress_type for member in archive.infolist()):
        raise ValueError("a member is compressed")
