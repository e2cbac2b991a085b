"""What was done to the gradients between the backward pass and the optimizer.

PyTorch counts a tensor's changes in place. The count when the backward pass has accumulated a
gradient, and again when the optimizer takes it, tell whether something, such as clipping, has
changed it in between, without getting in its way.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import nn

from trajfile.recorders.session import RecordingWarning, Session


class StageProbe:
    """Watches a few parameters' gradients."""

    def __init__(self, parameters: Iterable[nn.Parameter]):
        every = [p for p in parameters if p.requires_grad]
        watched = {id(p): p for p in (every[:1] + every[len(every) // 2 :][:1] + every[-1:])}
        self._watched = watched
        self._seen: dict[int, tuple[int, int]] = {}
        self._handles = [
            p.register_post_accumulate_grad_hook(self._accumulated)  # type: ignore[no-untyped-call]
            for p in watched.values()
        ]

    def _accumulated(self, parameter: torch.Tensor) -> None:
        grad = parameter.grad
        if grad is not None and not grad.is_sparse:
            self._seen[id(parameter)] = (id(grad), grad._version)

    def changed(self) -> bool:
        """Whether a gradient has been changed in place, or replaced, since it was accumulated.

        Returns:
            Whether it has. A GradScaler's unscaling does not count: PyTorch does not take it for
            a change.
        """
        for key, parameter in self._watched.items():
            grad, seen = parameter.grad, self._seen.get(key)
            if grad is None or seen is None or grad.is_sparse:
                continue
            if (id(grad), grad._version) != seen:
                return True
        return False

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()


class StageJudge:
    """States in the file what the gradients have been through, and warns where that changes.

    Args:
        session: The recording.
        watched: Parameters whose gradients are watched; None if the stage was said.
    """

    def __init__(self, session: Session, watched: Iterable[nn.Parameter] | None):
        self._session = session
        self._probe = None if watched is None else StageProbe(watched)

    def judge(self, *, taken: bool) -> None:
        """Look at the gradients that a row is about to hold; before the first one, state it.

        Args:
            taken: Whether they were taken before they could be clipped.
        """
        if self._probe is None:
            return
        changed = self._probe.changed()
        if not self._session.began:
            if taken:
                applied = "clipped" if changed else "raw"
                self._session.state("gradient", stage="raw", applied=applied)
                return
            self._session.state("gradient", stage="clipped" if changed else "raw")
            if changed:
                _warn(
                    "the gradients were changed in place between backward and optimizer.step(): "
                    "they are recorded as clipped; pass gradient_stage='clipped' if that is "
                    "right, or call take_gradients() before clipping to record them raw"
                )
        elif changed and not taken and self._session.stated("gradient").get("stage") == "raw":
            _warn(
                f"from step {self._session.step} on the gradients are changed in place between "
                "backward and optimizer.step(), while the file says that they are raw; pass "
                "gradient_stage='clipped' from the start, or call take_gradients() before clipping"
            )
            self.close()

    def close(self) -> None:
        """Stop watching."""
        if self._probe is not None:
            self._probe.close()
            self._probe = None


def _warn(text: str) -> None:
    warnings.warn(text, RecordingWarning, stacklevel=7)  # where the optimizer is called
