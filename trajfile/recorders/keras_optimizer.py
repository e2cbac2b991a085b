"""A Keras optimizer that keeps its gradients, and what can be told of it."""

from __future__ import annotations

from typing import Any

from trajfile.errors import UsageError
from trajfile.recorders.keras_package import keras

#: Name of the variables that keep gradients.
KEPT = "trajfile_gradient"


def keeping(optimizer: Any) -> Any:
    """An optimizer of the same class and settings that keeps its gradients.

    Args:
        optimizer: A Keras optimizer that has not been used yet.

    Returns:
        One with `kept_gradients`, those of its last update.

    Raises:
        UsageError: If it accumulates gradients over batches, wraps another optimizer, or has
            been built.
    """
    if getattr(optimizer, "built", False):
        raise UsageError("the optimizer has been used already; make a new one to record")
    if getattr(optimizer, "gradient_accumulation_steps", None):
        raise UsageError("gradient_accumulation_steps is not recorded; use larger batches")
    if hasattr(optimizer, "inner_optimizer"):
        raise UsageError(
            f"a {type(optimizer).__name__} wraps another optimizer: record the inner one"
        )
    kind: Any = _keeping(type(optimizer))
    return kind.from_config(optimizer.get_config())


def _keeping(kind: type) -> type:
    """A class of optimizer that keeps the gradients it is given."""

    class Keeping(kind):  # type: ignore[misc]  # any optimizer's class
        """Keeps the gradients of its last update in `kept_gradients`."""

        built: bool
        kept_gradients: list[Any]

        def build(self, variables: Any) -> None:
            super().build(variables)
            self.kept_gradients = [
                self.add_variable_from_reference(variable, name=KEPT) for variable in variables
            ]

        def apply(self, grads: Any, trainable_variables: Any = None) -> None:
            if not self.built and trainable_variables is not None:
                with keras.src.backend.name_scope(self.name, caller=self):
                    self.build(list(trainable_variables))
                self.built = True
            scale = self.loss_scale_factor
            for kept, gradient in zip(self.kept_gradients, grads, strict=True):
                if gradient is not None:
                    kept.assign(gradient if scale is None else gradient / scale)
            super().apply(grads, trainable_variables)

    Keeping.__name__ = kind.__name__
    return Keeping


def statement_of(optimizer: Any) -> dict[str, Any]:
    """What a recording says of an optimizer.

    Args:
        optimizer: Of Keras.

    Returns:
        ``name``, ``weight_decay``, ``betas``, ... as far as it has them.
    """
    name = type(optimizer).__name__
    told: dict[str, Any] = {"name": name}
    for ours, theirs in (("momentum", "momentum"), ("nesterov", "nesterov"), ("eps", "epsilon"),
                         ("amsgrad", "amsgrad"), ("weight_decay", "weight_decay")):  # fmt: skip
        value = getattr(optimizer, theirs, None)
        if isinstance(value, bool | int | float):
            told[ours] = value
    betas = [getattr(optimizer, key, None) for key in ("beta_1", "beta_2")]
    if all(isinstance(beta, float) for beta in betas):
        told["betas"] = betas
    if told.get("weight_decay"):
        told["decoupled_weight_decay"] = True  # Keras takes it off the weights, whichever optimizer
    return told
