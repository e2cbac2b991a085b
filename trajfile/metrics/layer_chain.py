"""Which tensors are the layers of the network, in order, and which of them meet.

Recorders may say so with ``groups["layers"]``. Otherwise the order of the tensors and the shapes
of the matrices are all there is: the longest run of matrices of which each fits the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from trajfile.engine.header import Header
from trajfile.schema import PARAMS, TensorSpec


@dataclass(frozen=True)
class Joint:
    """Two adjacent layers as the matrix imbalance takes them.

    Attributes:
        first: Name of the matrix of shape (h, a) before the h neurons between them.
        second: Name of the matrix of shape (b, h) after them. For weights stored input by output
            the two are exchanged: the chain read backwards, with the imbalance's sign turned.
        width: h.
        cost: Multiplications that one evaluation of the imbalance takes, h^2 (a + b).
    """

    first: str
    second: str
    width: int
    cost: int


@dataclass(frozen=True)
class LayerChain:
    """The layers of a network.

    Attributes:
        names: In order from input to output as declared, or as recorded.
        declared: Whether the run declares them; otherwise they are inferred.
        joints: The adjacent pairs whose matrices fit.
        doubt: Why the shapes allow another reading than this one; None if they do not, or if the
            layers are declared.
    """

    names: tuple[str, ...]
    declared: bool
    joints: tuple[Joint, ...]
    doubt: str | None = None

    @property
    def confidence(self) -> str:
        """``declared``; ``unique``, the only reading of the shapes; or ``ambiguous``."""
        if self.declared:
            return "declared"
        return "unique" if self.doubt is None else "ambiguous"


def layer_chain(header: Header) -> LayerChain | None:
    """The declared layers, or the ones that the shapes suggest.

    Args:
        header: Holds ``params``.

    Returns:
        At least two layers, or None if there are fewer.
    """
    tensors = header.tensors[PARAMS]
    declared = [tensors[name] for name in header.groups.get("layers", ()) if name in tensors]
    layers = declared or _longest_run(list(tensors.values()))
    if len(layers) < 2:
        return None
    # Square matrices fit either way, so the layout is settled for the chain as a whole.
    as_stored = _joints(layers)
    turned = _joints(layers[::-1])
    joints = as_stored if len(as_stored) >= len(turned) else turned
    doubt = None if declared else _doubt(list(tensors.values()), layers)
    if doubt is None and not declared and len(as_stored) == len(turned):
        doubt = "they fit as output by input and as input by output"
    return LayerChain(tuple(layer.name for layer in layers), bool(declared), joints, doubt)


def _doubt(tensors: Sequence[TensorSpec], layers: Sequence[TensorSpec]) -> str | None:
    """What the shapes leave open about an inferred chain; None for nothing."""
    chosen = {layer.name for layer in layers}
    outside = [t for t in tensors if len(t.shape) >= 2 and t.name not in chosen]
    if outside:
        more = "" if len(outside) == 1 else f" and {len(outside) - 1} more"
        return f"{outside[0].name}{more} of two or more dimensions is not in the chain"
    seen: dict[tuple[int, ...], str] = {}
    for layer in layers:
        if layer.shape in seen:
            return f"{seen[layer.shape]} and {layer.name} have one shape, and so may be exchanged"
        seen[layer.shape] = layer.name
    return None


def _joints(layers: Sequence[TensorSpec]) -> tuple[Joint, ...]:
    """The pairs that meet if every matrix is output by input, as PyTorch stores them."""
    return tuple(
        Joint(
            before.name,
            after.name,
            before.shape[0],
            before.shape[0] ** 2 * (before.shape[1] + after.shape[0]),
        )
        for before, after in pairwise(layers)
        if len(before.shape) == len(after.shape) == 2
        and before.shape[0] == after.shape[1]
        and before.size > 0
    )


def _longest_run(tensors: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The longest run of matrices that chain in one of the two layouts; others are passed over."""
    matrices = [tensor for tensor in tensors if len(tensor.shape) == 2]
    best: list[TensorSpec] = []
    for out, into in ((0, 1), (1, 0)):
        run: list[TensorSpec] = []
        for matrix in matrices:
            if run and run[-1].shape[out] != matrix.shape[into]:
                run = []
            run = [*run, matrix]
            best = run if len(run) > len(best) else best
    return best
