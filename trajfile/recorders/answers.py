"""Which metrics a schedule makes possible, said before anything is recorded."""

from __future__ import annotations

import numpy as np

from trajfile.recorders.schedule import SCALARS, Schedule
from trajfile.schema import GRADIENT_SAMPLES, GRADIENTS, PARAMS, UPDATES

#: Far enough for a cadence to show what it is.
_HORIZON = 20_000


def answers(schedule: Schedule) -> dict[str, str]:
    """What each metric can say of a run recorded by a schedule.

    Args:
        schedule: The schedule; events apart.

    Returns:
        By metric, ``yes``, ``no: why`` or ``partly: what is missing``.
    """
    steps = {name: rule.when.steps(_HORIZON) for name, rule in schedule.streams.items()}
    has = {name for name, at in steps.items() if len(at)}
    if PARAMS not in has:
        return dict.fromkeys(
            ("norms", "alignment", "elr", "imbalance", "sharpness", "periodicity", "geometry"),
            "no: needs params",
        ) | {"gradient_noise": "no: needs gradient_samples"}
    params = steps[PARAMS]
    paired = np.intersect1d(params, steps.get(GRADIENTS, np.empty(0, np.int64)))
    consecutive = bool((np.diff(params) == 1).any())
    consecutive_pairs = bool((np.diff(paired) == 1).any())
    gradients, scalars = GRADIENTS in has, SCALARS in has
    told = {
        "norms": "yes" if gradients else "partly: no gradients, so no gradient norms",
        "alignment": "yes"
        if consecutive or UPDATES in has
        else "partly: U_k only as means over strides; record bursts of params, or updates",
        "elr": "yes" if gradients else "partly: no gradients, so no effective gradient norm",
        "imbalance": "yes"
        if consecutive_pairs
        else "partly: its law needs params and gradients at consecutive steps",
        "sharpness": ("yes" if consecutive_pairs else "partly: secants over whole strides")
        if len(paired) > 1
        else "no: needs gradients at the steps of params",
        "periodicity": "yes"
        if consecutive
        else "partly: jumps by the norm's rises; angles need consecutive steps",
        "gradient_noise": "yes" if GRADIENT_SAMPLES in has else "no: needs gradient_samples",
        "geometry": "yes",
    }
    if not scalars:
        told["elr"] = "partly: without scalars no learning rate, so no ELR"
        told["alignment"] = "partly: without scalars no learning rate, so directions only"
    return told
