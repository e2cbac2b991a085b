"""Facts about a recording that no metric states: its gradients' stage, its steps, its rates."""

from __future__ import annotations

import numpy as np

from trajfile.engine.header import Header
from trajfile.report import Value
from trajfile.schema import GRADIENT_SAMPLES, GRADIENTS, PARAMS

#: A gap between steps counts as usual if at least this share of all gaps is as large.
USUAL_SHARE = 0.05

#: Every fact and what it is, for the documentation and for checking rules.
FACTS: dict[str, str] = {
    "gradient_stage": "The stated stage of recorded gradients (raw, scaled, clipped), or unstated.",
    "learning_rate_zero_share": "The share of recorded learning rates that are exactly 0.",
    "loss_growth": "Mean loss of the last tenth of the steps over that of the first.",
    "loss_not_finite": "At how many steps the recorded loss is NaN or infinite.",
    "largest_gap": "The largest gap between snapshots over the largest usual one.",
    "largest_gap_step": "The step after which that gap is.",
    "snapshots": "How many snapshots there are.",
}


def facts_of(header: Header) -> dict[str, Value]:
    """The facts about a run; one that is not known is left out.

    Args:
        header: The run.

    Returns:
        Values by the names of `FACTS`.
    """
    facts: dict[str, Value] = {"snapshots": len(header.steps.get(PARAMS, ()))}
    if any(len(header.steps.get(stream, ())) for stream in (GRADIENTS, GRADIENT_SAMPLES)):
        facts["gradient_stage"] = header.gradient.get("stage") or "unstated"
    if "learning_rate" in header.scalars:
        rates = header.scalars["learning_rate"][1]
        if len(rates):
            facts["learning_rate_zero_share"] = float((rates == 0).mean())
    if "loss" in header.scalars:
        losses = header.scalars["loss"][1]
        finite = losses[np.isfinite(losses)]
        facts["loss_not_finite"] = len(losses) - len(finite)
        tenth = max(1, len(finite) // 10)
        if len(finite) > 1 and finite[:tenth].mean() > 0:
            facts["loss_growth"] = float(finite[-tenth:].mean() / finite[:tenth].mean())
    facts |= _gap(np.unique(header.steps.get(PARAMS, np.empty(0, np.int64))))
    return facts


def _gap(steps: np.ndarray) -> dict[str, Value]:
    """The largest gap against the usual ones: those of a cadence recur, that of a hole does not."""
    gaps = np.diff(steps)
    if len(gaps) < 2:
        return {}
    sizes, counts = np.unique(gaps, return_counts=True)
    usual = sizes[counts >= max(2, USUAL_SHARE * len(gaps))]
    if not len(usual):
        return {}
    at = int(np.argmax(gaps))
    return {"largest_gap": float(gaps[at] / usual[-1]), "largest_gap_step": int(steps[at])}
