"""JAX and optax, which `pip install 'trajfile[jax]'` brings."""

from __future__ import annotations

from trajfile.errors import UsageError

try:
    import jax
    import jax.numpy as jnp
    import optax
    from jax.experimental import io_callback
except ImportError as error:
    raise UsageError(
        "trajfile.recorders.jax needs JAX and optax: pip install 'trajfile[jax]'"
    ) from error

__all__ = ["io_callback", "jax", "jnp", "optax"]
