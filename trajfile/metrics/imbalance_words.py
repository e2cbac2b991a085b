"""What a report says of the imbalance: findings, notes and the sentence."""

from __future__ import annotations

from typing import Any

from trajfile.engine.header import Header
from trajfile.metrics.layer_chain import LayerChain
from trajfile.metrics.layer_pairs import PairPlan
from trajfile.report import Finding


def findings(chain: LayerChain, summary: dict[str, Any], tolerance: float) -> list[Finding]:
    """A regularisation phase, and layers that do not follow the law of linear ones.

    Args:
        chain: The layers.
        summary: The metric's summary.
        tolerance: Largest residual of the law that is not reported.

    Returns:
        None, one or both.
    """
    found = []
    if summary["regularisation_phase"]:
        found.append(
            Finding(
                "imbalance.regularisation_phase",
                "info",
                f"From step {summary['phase_boundary_step']}, with the loss at its floor, the "
                f"layers balanced at {summary['decay_rate']:.3g} per step in ln|D|, against "
                f"{summary['decay_rate_before']:.3g} before.",
                {
                    key: summary[key]
                    for key in (
                        "phase_boundary_step",
                        "phase_boundary_range",
                        "decay_rate",
                        "decay_rate_interval",
                        "decay_rate_before",
                        "decay_rate_before_interval",
                        "decay_rate_expected",
                    )
                },
            )
        )
    # Of layers that nobody declared linear a broken law says nothing.
    residual = summary["law_residual"]
    if chain.declared and residual is not None and residual > tolerance:
        found.append(
            Finding(
                "imbalance.law",
                "info",
                "The imbalance does not follow the law of linear layers under plain SGD (off "
                f"by {residual:.2g} of its change): there is a bias, a "
                "normalisation, a nonlinearity or a skip between the layers, or gradients and "
                "params were recorded at different steps.",
                {"law_residual": residual, "steps": summary["law_steps"]},
            )
        )
    return found


def notes(
    header: Header, chain: LayerChain, plan: PairPlan, summary: dict[str, Any], changes: int
) -> list[str]:
    """What a reader has to know of the layers, the law and the phases.

    Args:
        header: The run.
        chain: Its layers.
        plan: Which pairs were measured, and why the law was not checked if it was not.
        summary: The metric's summary.
        changes: Fewest changes that give a residual of the law.

    Returns:
        Sentences.
    """
    said = []
    if not chain.declared:
        doubt = "" if chain.doubt is None else f" This is not the only reading: {chain.doubt}."
        said.append(
            "The layers were inferred from matrices whose shapes chain: "
            f"{', '.join(chain.names)}; declare groups['layers'] if that is wrong.{doubt}"
        )
    missing = len(chain.names) - 1 - summary["pairs_measured"]
    if missing:
        said.append(
            f"The matrix imbalance was measured on {summary['pairs_measured']} of "
            f"{len(chain.names) - 1} adjacent pairs: the others are not matrices that fit, or "
            "exceed imbalance.max_width, imbalance.matrix_work or the memory budget."
        )
    if plan.law_reason is not None:
        said.append(plan.law_reason)
    elif summary["law_residual"] is None and plan.needs:
        said.append(
            "Between adjacent steps the imbalance moved by more than the recorded precision "
            f"hides {summary['law_steps']} times; its law is checked from "
            f"{changes} on."
        )
    if "loss" not in header.scalars:
        said.append("Without the scalar loss there is no phase boundary.")
    elif summary["phase_boundary_step"] is not None:
        said.append(
            "Intervals of rates are 95 % ones, from the scatter about the line and the number "
            "of independent windows it is worth."
        )
        if summary["phase_boundary_range"] is None:
            said.append(
                "No change point of the loss confirms the phase boundary: it rests on the "
                "threshold imbalance.phase_fraction alone."
            )
    elif (span := summary["phase_boundary_range"]) is not None:
        said.append(
            f"The phase boundary is undetermined: the loss's threshold and its change point "
            f"lie as far apart as steps {span[0]} and {span[1]}."
        )
    else:
        said.append("The loss does not settle at a floor, so there is no phase boundary.")
    return said


def sentence(summary: dict[str, Any], layers: int) -> tuple[str | None, float]:
    """What happened to so many layers, and how much that deserves the headline."""
    first, last = summary["max_abs_first"], summary["max_abs_last"]
    if summary["regularisation_phase"]:
        expected = summary["decay_rate_expected"]
        beside = "" if expected is None else f" (weight decay alone gives {expected:.3g})"
        return (
            f"Two phases: the loss reached its floor at step {summary['phase_boundary_step']}, "
            f"and from there the layer imbalance shrank at {summary['decay_rate']:.3g} per step "
            f"in ln|D|{beside}, from {first:.4g} at the start to {last:.4g}.",
            0.8,
        )
    return f"The imbalance of the {layers} layers went from {first:.4g} to {last:.4g}.", 0.25
