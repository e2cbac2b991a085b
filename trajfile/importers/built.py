"""Objects that foreign code built, turned into the plain data that importers know."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from trajfile.dtypes import ITEM_SIZES
from trajfile.errors import ResourceError
from trajfile.importers.pickled import Inert, Name, plain_key
from trajfile.importers.torch_storage import Storage, View

if TYPE_CHECKING:
    import torch

_MAX_DEPTH = 64
_PLAIN = (str, int, float, bytes, bool, type(None))
#: How a note of a tensor reads that is none of numbers in rows; see `trajfile.importers.nested`.
_NO_TENSOR = Name("torch", "Tensor")


class Built:
    """Turns objects into plain data, and writes their tensors out.

    Args:
        out: Where the tensors' bytes go, one after another.

    Attributes:
        storages: First byte and length of each tensor, by key.
        digest: Of all that was written.
    """

    def __init__(self, out: BinaryIO):
        self.storages: dict[str, tuple[int, int]] = {}
        self.digest = hashlib.blake2b(digest_size=16)
        self._out, self._at = out, 0
        self._done: dict[int, tuple[Any, Any]] = {}
        self._views: dict[Any, View] = {}

    def plain(self, value: Any, depth: int = 0) -> Any:
        """An object as dicts, lists, plain values and `View`.

        Modules, optimizers and their like are taken by their ``state_dict()``, other objects by
        their attributes.

        Args:
            value: Any object.
            depth: How deep within others it lies.

        Returns:
            The same as plain data; an `Inert` note of a tensor that has no plain numbers, None of
            what is nested in itself or beyond 64 levels.
        """
        import torch

        if isinstance(value, _PLAIN):
            return value if type(value) in _PLAIN else _base(value)
        if depth > _MAX_DEPTH:
            return None
        if id(value) in self._done:  # holding the object, or its number could be given anew
            return self._done[id(value)][1]
        self._done[id(value)] = value, None
        made: Any
        if isinstance(value, np.ndarray):
            made = self._array(value)
        elif isinstance(value, torch.Tensor):
            made = self._tensor(value)
        else:
            made = self._object(value, depth)
        self._done[id(value)] = value, made
        return made

    def _object(self, value: Any, depth: int) -> Any:
        if not isinstance(value, (Mapping, list, tuple, set, frozenset)):
            state = getattr(value, "state_dict", None)
            value = state() if callable(state) else getattr(value, "__dict__", None)
        if isinstance(value, Mapping):
            return {plain_key(key): self.plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.plain(item, depth + 1) for item in value]
        return None

    def _array(self, array: np.ndarray[Any, Any]) -> Any:
        import torch

        try:
            return self._tensor(torch.from_numpy(np.ascontiguousarray(array)))
        except TypeError:  # of text or objects
            return None

    def _tensor(self, tensor: torch.Tensor) -> Any:
        import torch

        with torch.no_grad():
            dense = _dense(tensor)
        if dense is None:
            return Inert(_NO_TENSOR)
        dtype = str(dense.dtype).removeprefix("torch.")
        shape = tuple(dense.shape)
        # Two that are the very same numbers stay one, as tied weights are. A tensor made here is
        # gone after this, and its address may be that of the next.
        ours = dense.numel() and _has_numbers(tensor) and dense.data_ptr() == _address(tensor)
        same = (dense.data_ptr(), shape, dense.stride(), dtype) if ours else id(tensor)
        if same not in self._views:
            self._views[same] = View(self._stored(dense, dtype), dtype, 0, shape, _rows(shape))
        return self._views[same]

    def _stored(self, dense: torch.Tensor, dtype: str) -> Storage:
        import torch

        key = str(len(self.storages))
        length = 0
        if dtype in ITEM_SIZES and dense.numel():  # others are left out, and never read
            data = dense.contiguous().reshape(-1).view(torch.uint8).numpy().data
            length = len(data)
            self._write(data)
            self.digest.update(data)
        self.digest.update(f"{dtype} {length}\n".encode())
        self.storages[key] = self._at, length
        self._at += length
        return Storage(dtype, key, dense.numel() if length else 0)

    def _write(self, data: Any) -> None:
        try:
            self._out.write(data)
        except OSError as error:
            raise ResourceError(
                f"{self._out.name}: tensors that trusted code built cannot be kept: "
                f"{error.strerror}; name a folder with more room by TMPDIR"
            ) from error


def _dense(tensor: torch.Tensor) -> torch.Tensor | None:
    """The tensor's numbers in a plain tensor, whatever class or layout they were in."""
    import torch

    tensor = tensor.detach()
    try:
        if tensor.layout is not torch.strided:
            tensor = tensor.to_dense()
        if tensor.is_quantized or not _has_numbers(tensor):
            tensor = tensor.dequantize()
        if not _has_numbers(tensor):
            return None
        return tensor.as_subclass(torch.Tensor).cpu().resolve_conj().resolve_neg()
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return None


def _has_numbers(tensor: torch.Tensor) -> bool:
    """Whether a tensor has numbers of its own; those that wrap others have none."""
    import torch
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    if tensor.is_quantized or tensor.is_meta or tensor.layout is not torch.strided:
        return False
    if is_traceable_wrapper_subclass(tensor):
        return False
    return not tensor.numel() or _address(tensor) != 0


def _address(tensor: torch.Tensor) -> int:
    import torch

    with torch._C.DisableTorchFunctionSubclass():
        return int(tensor.data_ptr())


def _base(value: Any) -> Any:
    """A subclass of a plain value, such as an enumeration's member, as the plain value."""
    kinds: tuple[type[Any], ...] = (bool, int, float, str, bytes)
    return next(kind(value) for kind in kinds if isinstance(value, kind))


def _rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of numbers that follow one another."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(1, size))
    return tuple(reversed(strides)) if shape else ()
