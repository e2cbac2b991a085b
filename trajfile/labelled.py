"""A trajectory for xarray: labelled by step, and read when it is indexed.

A stream becomes a Dataset, the run a DataTree with one node a stream, because each stream has its
own cadence and xarray aligns by label: ``tree["params/w"] * tree["gradients/w"]`` meets at the
steps that both hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trajfile.errors import UsageError
from trajfile.lazy import StreamView, TensorRows

if TYPE_CHECKING:
    import xarray

Attributes = dict[str, Any]
Scalars = Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]


def stream_dataset(view: StreamView) -> xarray.Dataset:
    """One stream, nothing of its tensors read yet.

    Args:
        view: The stream.

    Returns:
        A variable for each tensor, with dimensions ``step`` and ``<tensor>_dim_<i>``. Rows of
        gradient_samples lie along ``row``, with coordinates ``step`` and ``sample``. A tensor
        that joined at a later step k has ``step_from_<k>`` (``row_from_<k>``) instead, because
        before that it has no values.

    Raises:
        UsageError: If xarray is not installed.
    """
    xr = _xarray()
    variables, coordinates = {}, {}
    for name, tensor in view.items():
        if view.steps.size and not len(tensor):
            continue  # declared, and not recorded so far
        rows, found = _row_axis(tensor)
        coordinates.update(found)
        axes = (rows, *(f"{name}_dim_{i}" for i in range(len(tensor.spec.shape))))
        variables[name] = xr.Variable(axes, _lazy(tensor))
    dataset: xarray.Dataset = xr.Dataset(variables, coordinates)
    return dataset


def scalars_dataset(scalars: Scalars) -> xarray.Dataset:
    """The scalars over the steps at which any was recorded; NaN also where one was not.

    Args:
        scalars: Steps and values of each.

    Returns:
        A variable of dimension ``step`` for each.
    """
    xr = _xarray()
    every = np.unique(np.concatenate([np.empty(0, np.int64), *(s for s, _ in scalars.values())]))
    variables = {}
    for name, (steps, values) in scalars.items():
        column = np.full(len(every), np.nan)
        column[np.searchsorted(every, steps)] = values
        variables[name] = ("step", column)
    dataset: xarray.Dataset = xr.Dataset(variables, {"step": every})
    return dataset


def run_tree(
    streams: Mapping[str, StreamView], scalars: Scalars, attributes: Attributes
) -> xarray.DataTree:
    """A whole run; see `trajfile.reader.Trajectory.to_xarray`.

    Args:
        streams: The streams by name.
        scalars: Steps and values of each scalar.
        attributes: What is known of the run; what is no text or number becomes JSON.

    Returns:
        A node for each stream and one for the scalars; a slash in a name makes a node of its own.

    Raises:
        UsageError: If xarray is not installed, or a name is also a folder of another.
    """
    xr = _xarray()
    nodes: dict[str, xarray.Dataset] = {"/scalars": scalars_dataset(scalars)}
    for name, view in streams.items():
        nodes |= dict(_nodes(f"/{name}", stream_dataset(view)))
    for path, node in nodes.items():
        taken = next((n for n in node.data_vars if f"{path}/{n}" in _above(nodes)), None)
        if taken is not None:
            raise UsageError(
                f"{path[1:]} holds both {taken!r} and tensors below {taken!r}/, which a DataTree "
                "cannot: take the stream alone, as in traj.to_xarray('params')"
            )
    tree: xarray.DataTree = xr.DataTree.from_dict(nodes)
    tree.attrs = {name: _plain(value) for name, value in attributes.items()}
    return tree


def _nodes(path: str, dataset: xarray.Dataset) -> Iterator[tuple[str, xarray.Dataset]]:
    """The dataset, its variables with a slash in their name moved to nodes below."""
    below: dict[str, list[str]] = {"": []}
    for name in dataset.data_vars:
        folder, _, _ = str(name).rpartition("/")
        below.setdefault(folder, []).append(str(name))
    for folder, names in below.items():
        # Dimensions keep the whole name of their tensor, so that they differ between nodes.
        leaves = {name: name.rpartition("/")[2] for name in names}
        part = dataset[names].rename_vars(leaves)
        yield (f"{path}/{folder}" if folder else path), part if names else dataset[[]]


def _above(nodes: Mapping[str, Any]) -> set[str]:
    """The paths of all nodes and of those above them."""
    paths = set()
    for path in nodes:
        parts = path.split("/")
        paths |= {"/".join(parts[:n]) for n in range(2, len(parts) + 1)}
    return paths


def _row_axis(tensor: TensorRows) -> tuple[str, dict[str, Any]]:
    """The dimension of a tensor's rows, and its coordinates."""
    late = f"_from_{tensor.steps[0]}" if tensor.spec.first_row and len(tensor) else ""
    if tensor.samples is None:
        return f"step{late}", {f"step{late}": tensor.steps}
    axis = f"row{late}"
    return axis, {
        f"step{late}": (axis, tensor.steps),
        f"sample{late}": (axis, tensor.samples),
    }


def _lazy(tensor: TensorRows) -> Any:
    """A tensor as an array that xarray reads only where it is indexed."""
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class Lazy(BackendArray):
        shape = tensor.shape
        dtype = tensor.dtype

        def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
            outer = indexing.IndexingSupport.OUTER
            return indexing.explicit_indexing_adapter(key, tensor.shape, outer, self.read)

        @staticmethod
        def read(key: tuple[Any, ...]) -> Any:
            """An index for each axis on its own: an int, a slice or an array of ints."""
            rows, *rest = key
            block, axis = tensor[rows], 0 if isinstance(rows, (int, np.integer)) else 1
            for part in rest:
                block = block[(*[slice(None)] * axis, part)]
                axis += not isinstance(part, (int, np.integer))
            return block

    return indexing.LazilyIndexedArray(Lazy())


def _plain(value: Any) -> Any:
    """What netCDF and Zarr take as an attribute."""
    return value if isinstance(value, (str, int, float)) else msgspec.json.encode(value).decode()


def _xarray() -> Any:
    try:
        import xarray
    except ImportError as error:
        raise UsageError("to_xarray needs xarray: install trajfile[xarray]") from error
    return xarray
