"""How PyTorch's pickles describe tensors: storages by persistent id, tensors as views of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trajfile.dtypes import ITEM_SIZES
from trajfile.importers.files import File
from trajfile.importers.pickled import Inert, Name, PickleError
from trajfile.importers.places import Place, strided

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
_OTHER_SIZES = {"bool": 1, "complex64": 8, "complex128": 16}
#: Modules whose classes are part of plain PyTorch, NumPy or Python data.
_USUAL = ("torch", "collections", "numpy", "builtins", "_codecs", "copyreg", "pathlib", "argparse")
_HARMFUL = {
    Name("builtins", name) for name in ("eval", "exec", "compile", "open", "__import__", "getattr")
}


@dataclass(frozen=True)
class Storage:
    """A stretch of bytes that tensors are views of.

    Attributes:
        dtype: The dtype of its elements.
        key: What it is called in its archive.
        count: How many elements it has.
    """

    dtype: str
    key: str
    count: int


@dataclass(frozen=True)
class View:
    """A tensor as pickled.

    Attributes:
        storage: Where its elements lie.
        dtype: Its dtype.
        offset: Its first element in the storage.
        shape: Its shape.
        strides: Distance between neighbours along each axis, in elements.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def place(self, file: File, start: int, count: int) -> Place:
        """Where it lies, once its storage is found.

        Args:
            file: The file.
            start: The first byte of the storage in the file.
            count: How many bytes the storage has there.

        Returns:
            The place.

        Raises:
            PickleError: If the tensor reaches beyond its storage.
        """
        size = item_size(self.dtype)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if 0 not in self.shape and (last + 1) * size > count:
            raise PickleError(
                f"a tensor of shape {self.shape} reaches byte {(last + 1) * size} of a storage "
                f"of {count} bytes"
            )
        return strided(self.dtype, self.shape, file, start + self.offset * size, self.strides)


def item_size(dtype: str) -> int:
    """Bytes of an element, also of dtypes that are left out."""
    return ITEM_SIZES.get(dtype) or _OTHER_SIZES.get(dtype, 1)


def is_foreign(maker: Any) -> bool:
    """Whether what would be called is code beyond plain PyTorch, NumPy and Python data."""
    return isinstance(maker, Name) and (
        maker.module.split(".")[0] not in _USUAL or maker in _HARMFUL
    )


class Reader:
    """Recognises tensors in a pickle of PyTorch's.

    Attributes:
        foreign: Names of code beyond plain PyTorch that the pickle mentions.
    """

    def __init__(self) -> None:
        self.foreign: set[str] = set()

    def refer(self, pid: Any) -> Any:
        """A storage, from its persistent id ``("storage", type, key, location, count)``."""
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"):
            raise PickleError("a persistent id is not that of a storage")
        kind, key, count = pid[1], pid[2], pid[4]
        dtype = _STORAGES.get(kind.name) if isinstance(kind, Name) else None
        if dtype is None or not isinstance(key, str) or type(count) is not int or count < 0:
            return Inert(kind)
        return Storage(dtype, key, count)

    def rebuild(self, maker: Any, args: Any) -> Any:
        """What a call would have built; of code that is not recognised, a note."""
        known = _CALLS.get(maker) if isinstance(maker, Name) else None
        if known is not None and isinstance(args, tuple):
            return known(self, args)
        if is_foreign(maker):
            self.foreign.add(str(maker))
        return Inert(maker, args)


def _tensor(reader: Reader, args: tuple[Any, ...]) -> Any:
    """``_rebuild_tensor_v2(storage, offset, shape, strides, ...)``."""
    del reader
    storage, offset, shape, strides, *_ = args
    return _view(storage, offset, shape, strides, None)


def _tensor_of_dtype(reader: Reader, args: tuple[Any, ...]) -> Any:
    """``_rebuild_tensor_v3(storage, offset, shape, strides, requires_grad, hooks, dtype, ...)``."""
    del reader
    storage, offset, shape, strides, _, _, dtype, *_ = args
    return _view(storage, offset, shape, strides, dtype)


def _view(storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any) -> Any:
    if not isinstance(storage, Storage):
        return Inert(Name("torch", "Tensor"))
    numbers = (offset, *shape, *strides)
    if any(type(n) is not int or not 0 <= n < 2**48 for n in numbers) or len(shape) != len(strides):
        raise PickleError("a tensor has an impossible shape or strides")
    name = dtype.name if isinstance(dtype, Name) else storage.dtype
    return View(storage, name, offset, tuple(shape), tuple(strides))


def _first(reader: Reader, args: tuple[Any, ...]) -> Any:
    """``_rebuild_parameter(data, ...)`` and its like."""
    del reader
    return args[0]


def _subclass(reader: Reader, args: tuple[Any, ...]) -> Any:
    """``_rebuild_from_type_v2(function, type, args, state)``: the tensor without its class."""
    maker, _, inner, *_ = args
    return reader.rebuild(maker, inner)


def _dictionary(reader: Reader, args: tuple[Any, ...]) -> Any:
    del reader, args
    return {}


def _tuple(reader: Reader, args: tuple[Any, ...]) -> Any:
    del reader
    return tuple(args[0]) if args and isinstance(args[0], (list, tuple)) else ()


_CALLS: Mapping[Name, Callable[[Reader, tuple[Any, ...]], Any]] = {
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_parameter"): _first,
    Name("torch._utils", "_rebuild_parameter_with_state"): _first,
    Name("torch._tensor", "_rebuild_from_type_v2"): _subclass,
    Name("torch", "Size"): _tuple,
    Name("collections", "OrderedDict"): _dictionary,
    Name("collections", "defaultdict"): _dictionary,
}
