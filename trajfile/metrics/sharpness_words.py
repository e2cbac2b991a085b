"""What a report says of the sharpness: findings, notes and the sentence."""

from __future__ import annotations

from typing import Any

import numpy as np

from trajfile.engine.header import Header
from trajfile.metrics import robust
from trajfile.metrics.curvature import PathCurvature
from trajfile.metrics.edge import Edge
from trajfile.metrics.estimate import MEASURED, Estimate
from trajfile.metrics.secant_noise import SecantSignal
from trajfile.report import Finding, number
from trajfile.schema import GRADIENTS, PARAMS


def unlike_losses(header: Header) -> str | None:
    """Why the gradient differences are not of one loss, or None if they are."""
    source = header.gradient.get("source")
    if source == "full_batch":
        return None
    what = "are of mini-batches" if source == "mini_batch" else "are not said to be full-batch"
    return (
        f"The gradients {what}: two steps then see different losses, and their noise, which also "
        "moved the params, pulls secants over s steps towards 1/(ηs); they carry no verdict."
    )


def too_noisy(header: Header, signal: SecantSignal, floor: float, fewest: int) -> str:
    """Why no curvature is reported.

    Args:
        header: The run.
        signal: What its secants are worth.
        floor: The signal-to-noise asked for.
        fewest: Fewest displacements that can show it.

    Returns:
        One sentence with the remedy.
    """
    source = header.gradient.get("source")
    what = "are of mini-batches" if source == "mini_batch" else "are not said to be full-batch"
    if signal.source is None:
        known = "and nothing tells their noise from curvature"
    else:
        by = "gradient_samples" if signal.source == "gradient_samples" else "asymmetry"
        known = (
            f"and the signal-to-noise of their secants, judged by {by} on {signal.pairs} "
            f"displacements, is {signal.ratio:.2g}; {floor:g} on {fewest} or more is asked for"
        )
    return (
        f"The gradients {what}, {known}. Record full-batch gradients (and gradient source), "
        "gradient_samples, a sharpness scalar, or give the loss with --replay."
    )


def findings(summary: dict[str, Any], edge: Edge, high: float) -> list[Finding]:
    """The edge of stability, or a sharpness above it.

    Args:
        summary: The metric's summary.
        edge: The evidence.
        high: Upper end of the band at the edge.

    Returns:
        One finding or none.
    """
    evidence = {
        "ratio_median": number(edge.median),
        "ratio_interval": edge.interval.pair,
        "inside_band": edge.inside,
        "estimates": edge.samples,
        "estimator": summary["estimator"],
        "since_step": edge.since,
        "since_range": summary["edge_since_range"],
    }
    if edge.at_edge:
        return [
            Finding(
                "sharpness.at_edge",
                "info",
                f"The sharpness hovers at {edge.median:.2f} of the stability threshold "
                f"{summary['threshold_rule']} = {summary['threshold_last']:.4g}.",
                evidence,
            )
        ]
    if edge.at_edge is False and edge.median > high:
        return [
            Finding(
                "sharpness.above_threshold",
                "warn",
                f"The measured sharpness stays at {edge.median:.2f} of the stability threshold "
                f"{summary['threshold_rule']}: the learning rate is too large for it.",
                evidence,
            )
        ]
    return []


def notes(
    header: Header, estimate: Estimate, path: PathCurvature, signal: SecantSignal | None
) -> list[str]:
    """What a reader has to know of the secants and Ritz values.

    Args:
        header: The run.
        estimate: The estimate in force.
        path: Secants and Ritz values.
        signal: What the secants are worth, where the gradients are not of the whole data.

    Returns:
        Sentences.
    """
    told: list[str] = []
    if not np.isfinite(path.secant).any():
        return told
    noise = unlike_losses(header)
    if noise is not None and signal is not None and signal.source is not None:
        within = f" ({signal.low:.2g} to {signal.high:.2g})" if np.isfinite(signal.low) else ""
        told.append(
            f"{noise} By {signal.source}, their median signal-to-noise is "
            f"{signal.ratio:.2g}{within}."
        )
    elif noise is not None:
        told.append(noise)
    if header.gradient.get("stage") == "clipped":
        told.append("The gradients were clipped: where the clip acted, secants are wrong.")
    without = set(header.tensors.get(PARAMS, ())) - set(header.tensors.get(GRADIENTS, ()))
    if without:
        told.append(
            f"{len(without)} tensors have params but no gradients: where they move they add to "
            "‖Δθ‖², and the curvature is understated."
        )
    if path.strides.max() > 1:
        told.append(
            f"Snapshots lie up to {path.strides.max()} steps apart: those secants average the "
            "curvature along the chord between them."
        )
    if estimate.kind == "ritz_lower_bound":
        told.append(
            "The Ritz value sees only directions the run moved in: λ_max may be larger. "
            f"ritz_error, {robust.median(path.error):.2g} in the median, is the residual of the "
            "Ritz pair, within which an eigenvalue lies where the window's displacements share one "
            "Hessian, and ‖M − Mᵀ‖, which tells how far they do not."
        )
    told.append(
        "A tensor's secant ⟨Δg_i, Δθ_i⟩/‖Δθ_i‖² takes in how the other tensors' moves changed its "
        "gradient; it is the curvature of its diagonal block only where it moved alone."
    )
    return told


def sentence(header: Header, summary: dict[str, Any]) -> tuple[str | None, float]:
    """What happened, and how much that deserves the headline.

    Args:
        header: The run.
        summary: The metric's summary.

    Returns:
        The sentence, if there is one, and its salience.
    """
    top, limit, ratio = summary["max"], summary["threshold_last"], summary["edge_ratio_median"]
    kind = summary["estimator"]
    measured = kind in MEASURED
    if summary.get("exact_preconditioned_last") is not None:
        kind = "exact preconditioned"
    if top is None:
        return None, 0.0
    if summary["at_edge"]:
        what = f"{kind} sharpness" if measured else "Ritz lower bound of the sharpness"
        since = summary["edge_since_step"]
        when = f" since step {since}" if since is not None else ""
        return (
            f"Training ran at the edge of stability: the {what} has hovered at {ratio:.2f} of "
            f"the threshold {summary['threshold_rule']} = {limit:.4g}{when}.",
            0.85,
        )
    if measured and summary["at_edge"] is False and ratio is not None:
        side = "below" if ratio < 1 else "above"
        return (
            f"The {kind} sharpness stays {side} the stability threshold "
            f"{summary['threshold_rule']}: {ratio:.2f} of it over the last part of the run.",
            0.3 if ratio < 1 else 0.85,
        )
    if measured:
        return f"The {kind} sharpness reached {top:.4g}.", 0.25
    if unlike_losses(header) is not None:
        return (
            f"The curvature along the path looks like {top:.4g} at most, but gradient noise "
            "biases this estimate: it says nothing about the edge of stability.",
            0.15,
        )
    beside = "" if ratio is None else f", typically {ratio:.2f} of the threshold at the end"
    return (
        f"Curvature along the path reached {top:.4g}{beside}; being a lower bound, it leaves "
        "open whether training was at the edge of stability.",
        0.25,
    )
