"""What a metric means depends on the optimizer: the sentence that says so beside its figures.

The formulas of this package are those of gradient descent unless they say otherwise. Plain SGD
needs no sentence. The same sentences, by metric, are in spec/metrics.md.
"""

from __future__ import annotations

from typing import Literal

from trajfile.engine.header import Header

Kind = Literal["plain", "heavy_ball", "nesterov", "adam", "adamw", "other", "unstated"]

_MOMENTUM = {
    "alignment": (
        "With momentum the update U_k carries past gradients, so γ and the cosines judge the "
        "averaged direction and not the gradient of step k."
    ),
    "elr": (
        "With momentum a gradient acts 1/(1 − β) times over, which ELR = η/ρ² leaves out: compare "
        "it, and where the regimes lie, at one β only."
    ),
    "imbalance": (
        "With momentum the imbalance does not obey its law step by step, so law_residual is null; "
        "coupled weight decay shrinks it 1/(1 − β) times as fast."
    ),
    "periodicity": (
        "With momentum the law of the norm does not hold step by step, so law_residual_median is "
        "null; jumps and their periods are found as they are."
    ),
    "gradient_noise": (
        "K is of single gradients; momentum averages about 1/(1 − β) of them before they have "
        "moved θ, so K is not the noise of a step."
    ),
}
_ADAM = {
    "alignment": (
        "Adam's update U_k keeps about one size whatever the gradient's, so γ is not on the scale "
        "of SGD's: compare it between runs of Adam only."
    ),
    "gradient_noise": (
        "K is of plain gradients and Adam moves by preconditioned ones, so the direction of λ₁ "
        "need not be the one in which it loses stability first."
    ),
    "periodicity": (
        "Adam's step does not shrink with the gradient, so the law of the norm does not apply and "
        "law_residual_median is null; jumps and their periods are found as they are."
    ),
}
_ADAM_ELR = (
    "Adam's step does not shrink with the gradient: θ turns by about η/ρ a step, not by η/ρ² "
    "times the effective gradient norm, so ELR does not order runs of Adam as it does those of SGD"
)
_ADAM_BALANCE = (
    "Adam does not conserve the imbalance, however small its steps: law_residual is null"
)

#: By kind of optimizer and metric. Metrics that are not named mean the same for every optimizer.
SENTENCES: dict[Kind, dict[str, str]] = {
    "plain": {},
    "heavy_ball": _MOMENTUM
    | {
        "sharpness": (
            "The threshold is heavy ball's, on the Hessian of all that is descended on: coupled "
            "weight decay λ takes up λ of it."
        ),
    },
    "nesterov": _MOMENTUM
    | {
        "sharpness": (
            "The threshold is that of Nesterov's momentum as PyTorch has it, the gradient being "
            "taken where the params are; coupled weight decay λ takes up λ of it."
        ),
    },
    "adam": _ADAM
    | {
        "elr": f"{_ADAM_ELR}; with coupled decay its rotation at equilibrium is not known.",
        "imbalance": f"{_ADAM_BALANCE}, and with coupled decay so is decay_rate_expected.",
        "sharpness": (
            "Decay that is part of Adam's gradient adds λ to the Hessian before it is "
            "preconditioned."
        ),
    },
    "adamw": _ADAM
    | {
        "elr": (
            f"{_ADAM_ELR}; the rotation at equilibrium presumes second moments that are alike in "
            "all coordinates of a tensor."
        ),
        "imbalance": (
            f"{_ADAM_BALANCE}; decoupled decay shrinks all norms alike, so decay_rate_expected is "
            "−2ηλ where gradients no longer act."
        ),
        "sharpness": "Decoupled decay lowers Adam's threshold by the factor 1 − ηλ/2.",
    },
    "other": {
        "alignment": (
            "U_k is the update in θ_{k+1} = θ_k − η_k U_k with all that the optimizer makes of "
            "the gradient: compare γ between runs of this optimizer only."
        ),
        "elr": (
            "ELR and the regimes are defined for SGD, and the rotation at equilibrium is not known "
            "for this optimizer: the angular update is what holds for any."
        ),
        "imbalance": (
            "Whether this optimizer conserves the imbalance is not known: law_residual is null, "
            "and so is decay_rate_expected unless its decay is said to be decoupled."
        ),
        "sharpness": (
            "Secants and Ritz values rest on displacements and gradients alone and hold for any "
            "optimizer; there is no threshold to hold them against."
        ),
        "periodicity": (
            "The law of the norm is plain SGD's, so law_residual_median is null; jumps and their "
            "periods are found as they are."
        ),
        "gradient_noise": (
            "K does not depend on the optimizer; how it bears on stability does, and is not known "
            "for this one."
        ),
    },
    "unstated": {
        "elr": "The run does not name its optimizer: ELR and the regimes are read as SGD's.",
        "periodicity": (
            "The run does not name its optimizer: the law of the norm is held against it as if it "
            "were plain SGD's, and a residual far from 0 says that it was not."
        ),
    },
}


def kind_of(header: Header) -> Kind:
    """Which optimizer a run was trained with, as far as the formulas tell them apart.

    Args:
        header: Of the run.

    Returns:
        The kind; ``other`` for one that no formula here is for, ``unstated`` if none is named.
    """
    name = str(header.optimizer.get("name") or "").upper()
    if not name:
        return "unstated"
    if name in {"SGD", "GD"}:
        if header.momentum and header.optimizer.get("nesterov"):
            return "nesterov"
        return "heavy_ball" if header.momentum else "plain"
    if name == "ADAM":
        return "adamw" if header.optimizer.get("decoupled_weight_decay") else "adam"
    return "adamw" if name == "ADAMW" else "other"


def optimizer_note(metric: str, header: Header) -> list[str]:
    """What the run's optimizer changes in the meaning of a metric.

    Args:
        metric: Its id.
        header: Of the run.

    Returns:
        One sentence, or none where nothing changes.
    """
    sentence = SENTENCES[kind_of(header)].get(metric)
    return [] if sentence is None else [sentence]
