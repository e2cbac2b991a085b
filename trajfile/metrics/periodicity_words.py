"""What is said of jumps and their periods."""

from __future__ import annotations

from typing import Any

import numpy as np

from trajfile.report import Finding


def jump_findings(
    summary: dict[str, Any], why: str, invariant: bool, law_tolerance: float
) -> list[Finding]:
    """The jumps, if they may be what the metric is about, and a law that does not hold.

    Args:
        summary: Of the metric.
        why: The clause that says why they are periodic or not.
        invariant: Whether they are those of scale-invariant tensors.
        law_tolerance: A median law residual above this is reported.

    Returns:
        Up to two findings.
    """
    found = []
    if summary["jumps"] and (invariant or summary["periodic"]):
        at = summary["jump_steps"]
        shown = ", ".join(str(step) for step in at[:6]) + (" and later" if at[6:] else "")
        verdict = {True: "periodic", False: "not periodic", None: "perhaps periodic"}
        found.append(
            Finding(
                "periodicity.jumps",
                "warn" if summary["periodic"] and invariant else "info",
                f"{_count(summary['jumps'])} (step{'s' * (len(at) > 1)} {shown}), "
                f"{verdict[summary['periodic']]}: {why}.",
                {
                    "periodic": summary["periodic"],
                    "jumps": summary["jumps"],
                    "first_step": at[0],
                    "method": summary["method"],
                    "delta": summary["delta"],
                    "period_mean": summary["period_mean"],
                    "period_mean_interval": summary["period_mean_interval"],
                    "period_cv": summary["period_cv"],
                },
            )
        )
    residual = summary["law_residual_median"]
    if residual is not None and residual > law_tolerance:
        found.append(
            Finding(
                "periodicity.law",
                "warn",
                f"The norm does not follow the law of plain SGD with weight decay (median "
                f"residual {residual:.2g}, expected near 0): momentum, clipping, or tensors "
                "that are not scale-invariant.",
                {"law_residual_median": residual, "limit": law_tolerance},
            )
        )
    return found


def jump_sentence(summary: dict[str, Any], invariant: bool) -> str | None:
    """What happened, if there were jumps that may be what the metric is about.

    Args:
        summary: Of the metric.
        invariant: Whether they are those of scale-invariant tensors.

    Returns:
        The sentence, or None.
    """
    if not summary["jumps"] or not (invariant or summary["periodic"]):
        return None
    at, count = summary["jump_steps"], _count(summary["jumps"])
    if summary["periodic"] is False:
        return f"From step {at[0]} on, the scale-invariant weights keep turning by large angles."
    if summary["periodic"] is None:
        return (
            f"{count} of the scale-invariant weights, first at step {at[0]}; whether they are "
            "periodic is undetermined."
        )
    climb = ""
    low, high = summary["period_elr_min"], summary["period_elr_max"]
    if None not in (*low, *high):
        climb = (
            f"; in between the norm decays and the effective learning rate climbs from "
            f"{np.median(low):.2g} to {np.median(high):.2g}"
        )
    spread = summary["period_mean_interval"]
    between = f" [{spread[0]:.0f}, {spread[1]:.0f}]" if spread else ""
    lead = "Training destabilises periodically" if invariant else "All weights together jump"
    return (
        f"{lead}: {count}, steps {at[0]} to {at[-1]}, every {summary['period_mean']:.0f}{between} "
        f"steps on average (spread {summary['period_cv']:.0%}){climb}."
    )


def _count(jumps: int) -> str:
    return "1 jump" if jumps == 1 else f"{jumps} jumps"
