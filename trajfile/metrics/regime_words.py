"""What is said of a regime."""

from __future__ import annotations

from typing import Any

from trajfile.metrics.regime import Regime
from trajfile.report import Finding


def regime_finding(metric: str, regime: Regime) -> list[Finding]:
    """The word with its evidence, unless it is undetermined.

    Args:
        metric: The id to report it under.
        regime: The regime.

    Returns:
        No finding or one.
    """
    if regime.word == "undetermined":
        return []
    name = regime.word.replace("_", " ")
    return [
        Finding(
            f"{metric}.regime",
            "warn" if regime.word == "divergence" else "info",
            f"The run ends in {name}, {_since(regime)}: {regime.reason}.",
            {
                "regime": regime.word,
                "since_step": regime.since_step,
                "since_interval": regime.since_interval,
                **regime.evidence,
            },
        )
    ]


def _since(regime: Regime) -> str:
    """When the regime began, to the resolution of a block of rows."""
    step = regime.since_step
    return f"since about step {step}" if step else "from the start"


def regime_sentence(regime: Regime, summary: dict[str, Any]) -> str:
    """What the run's effective learning rate did, with the figures that matter.

    Args:
        regime: The regime.
        summary: With `elr_last`.

    Returns:
        The sentence.
    """
    rate = "an effective learning rate that was not recorded"
    if summary["elr_last"] is not None:
        rate = f"an effective learning rate of {summary['elr_last']:.2g}"
    evidence = regime.evidence
    loss, level = evidence.get("loss"), evidence.get("random_loss")
    if regime.word == "convergence":
        return (
            f"At {rate} training converges: loss {loss:.2g}, effective gradient norm "
            f"{evidence['effective_gradient_norm']:.2g}, "
            + ("both still falling" if "fall" in regime.reason else "at its floor")
            + f" ({_since(regime)})."
        )
    if regime.word == "chaotic_equilibrium":
        return (
            f"At {rate} training is in chaotic equilibrium, {_since(regime)}: loss stays near "
            f"{loss:.2g} and the effective gradient norm near "
            f"{evidence['effective_gradient_norm']:.2g}."
        )
    if regime.word == "divergence":
        return (
            f"At {rate} training diverges, {_since(regime)}: the loss, {loss:.2g}, is no better "
            f"than its random level, {level:.2g}."
        )
    return f"The regime is undetermined: {regime.reason}; the run ends at {rate}."
