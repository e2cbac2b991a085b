"""What `alignment` says in one sentence."""

from __future__ import annotations

from typing import Any


def sentence(summary: dict[str, Any], doubt: str | None, *, rose: bool) -> str | None:
    """How the updates stood to where training ended up.

    Args:
        summary: The metric's.
        doubt: What the recorded updates look like if they are not the run's, else None.
        rose: Whether the loss was higher there than at first.

    Returns:
        The sentence; None where too little is known.
    """
    violated, cos = summary["violated_fraction"], summary["cosine_mean"]
    if violated is None or cos is None:
        return None
    if doubt is not None:
        return f"The recorded updates do not lead from snapshot to snapshot. {doubt}"
    gamma = summary["gamma_aggregate"]
    tail = _between(summary["cosine_mean_interval"])
    if gamma is not None:
        tail += f", γ = {gamma:.2g}{_between(summary['gamma_aggregate_interval'])} in aggregate"
    if rose:
        return (
            f"Updates point to where training ended up (mean cosine {cos:.2g}{tail}), but the "
            f"loss there is {summary['loss_rise']:.3g} times the first."
        )
    if summary["verdict"] == "misaligned":
        return (
            f"Updates are misaligned: {violated:.0%} of them point away from where training "
            f"ended up (mean cosine {cos:.2g}{tail})."
        )
    if summary["verdict"] == "aligned":
        return f"Updates are aligned with the trajectory: mean cosine {cos:.2g}{tail}."
    return (
        f"{share(violated)} of the updates point away from where training ended up, and "
        f"{share(summary['approach_fraction'] or 0).lower()} of the snapshots come nearer to "
        f"it (mean cosine {cos:.2g}{tail})."
    )


def share(part: float) -> str:
    """A part of a whole at the start of a sentence."""
    return {0.0: "None", 1.0: "All"}.get(part, f"{part:.0%}")


def _between(interval: list[float] | None) -> str:
    """An interval to stand behind its figure."""
    return f" [{interval[0]:.2g}, {interval[1]:.2g}]" if interval else ""
