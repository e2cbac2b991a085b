"""Trees of arrays, as JAX has them, by name: parameters, and what of a state is like them."""

from __future__ import annotations

from typing import Any

from trajfile.errors import UsageError
from trajfile.recorders.jax_package import jax, jnp

Tree = Any
_SLOTS = {"mu": "exp_avg", "nu": "exp_avg_sq", "trace": "momentum_buffer"}


def names_of(params: Tree) -> list[str]:
    """Names of a tree's leaves: the keys that lead to each, joined by dots.

    Args:
        params: Any tree of arrays.

    Returns:
        One for each leaf, in the order of the leaves.

    Raises:
        UsageError: If two leaves come to the same name.
    """
    names: list[str] = []
    for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]:
        keys = [str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path]
        if len(keys) > 1 and keys[-1] == "value":  # a flax.nnx.Variable around its array
            keys.pop()
        name = ".".join(keys) or "params"
        if name in names:
            raise UsageError(
                f"two leaves of the params come to the name {name!r} when their keys are joined "
                "by dots: rename one of the keys"
            )
        names.append(name)
    return names


def slots_of(state: Tree, params: Tree) -> dict[str, Tree]:
    """The parts of an optimizer's state that are trees like the params.

    Args:
        state: Any state.
        params: The params.

    Returns:
        By slot: ``exp_avg``, ``exp_avg_sq`` and ``momentum_buffer`` for optax's ``mu``, ``nu`` and
        ``trace``, other fields under their own names; a second one of a name under its path.
    """
    shape: Any = jax.tree.structure(params)
    sizes = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]

    def alike(tree: Tree) -> bool:
        return (
            jax.tree.structure(tree) == shape
            and [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] == sizes
        )

    slots: dict[str, Tree] = {}
    for path, part in jax.tree_util.tree_flatten_with_path(state, is_leaf=alike)[0]:
        if not alike(part):
            continue
        keys = [str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path]
        slot = _SLOTS.get(keys[-1], keys[-1]) if keys else "state"
        slots[slot if slot not in slots else ".".join(keys)] = part
    return slots
