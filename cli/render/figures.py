"""Which few numbers of each metric the screen shows: one table, and how its entries read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .text import count, counted, number, percent

if TYPE_CHECKING:
    from trajfile.report import MetricResult

Kind = Literal[
    "number", "percent", "step", "word", "finding", "times", "items", "list", "ends", "last"
]


@dataclass(frozen=True)
class Figure:
    """One number or word of a metric's row.

    Attributes:
        label: What it is called; may be empty for a word that speaks for itself.
        source: A summary name; for the kinds ``ends`` and ``last``, a series name.
        kind: How it reads. ``ends``: first and last defined value of the series; ``last``: the
            last one; ``finding``: yes, no, or undetermined where the data cannot tell;
            ``times``: a ratio; ``items``: how many; ``list``: the first few percents.
        only_if: A summary name and the value it must have for the figure to mean anything.
    """

    label: str
    source: str
    kind: Kind = "number"
    only_if: tuple[str, Any] | None = None


@dataclass(frozen=True)
class View:
    """A metric's row: its figures, most important first, and the series to draw.

    Attributes:
        figures: Those that do not fit the width are left out from the end.
        drawn: Series and their labels in order of preference: the first that moves is drawn.
    """

    figures: tuple[Figure, ...]
    drawn: tuple[tuple[str, str], ...]


VIEWS: dict[str, View] = {
    "norms": View(
        (
            Figure("first non-finite step", "non_finite_step", "step"),
            Figure("‖θ‖", "params", "ends"),
            Figure("‖g‖", "gradients", "ends"),
            Figure("relative update", "relative_update", "last"),
        ),
        (("params", "‖θ‖"), ("gradients", "‖g‖")),
    ),
    "alignment": View(
        (
            Figure("γ", "gamma_trajectory"),
            Figure("aggregate γ", "gamma_aggregate"),
            Figure("violated", "violated_fraction", "percent"),
            Figure("mean cosine", "cosine_mean"),
        ),
        (("cosine", "cosine"), ("gamma", "γ")),
    ),
    "elr": View(
        (
            Figure("", "regime", "word"),
            Figure("ELR", "elr", "ends"),
            Figure("effective ‖g‖", "effective_gradient_norm", "last"),
            Figure("rotation", "equilibrium_ratio", "times"),
        ),
        (("elr", "ELR"), ("effective_gradient_norm", "eff. ‖g‖"), ("rho_squared", "ρ²")),
    ),
    "imbalance": View(
        (
            Figure("max |D|", "max_abs", "ends"),
            Figure("boundary at step", "phase_boundary_step", "step"),
            Figure("decay/step", "decay_rate"),
            # Of layers that nobody declared linear a broken law says nothing.
            Figure("law residual", "law_residual", only_if=("layers_confidence", "declared")),
        ),
        (("max_abs", "max |D|"), ("frobenius_max", "max ‖D‖")),
    ),
    "sharpness": View(
        (
            Figure("", "estimator", "word"),
            Figure("last", "last"),
            Figure("limit", "threshold_last"),
            Figure("ratio", "edge_ratio_last"),
            Figure("max", "max"),
        ),
        (("exact", "exact"), ("recorded", "recorded"), ("ritz", "Ritz"), ("secant", "secant")),
    ),
    "periodicity": View(
        (
            Figure("periodic", "periodic", "finding"),
            Figure("jump", "jump_steps", "items"),
            Figure("period", "period_mean", "step", only_if=("periodic", True)),
            Figure("spread", "period_cv", "percent", only_if=("periodic", True)),
            Figure("law residual", "law_residual_median"),
        ),
        (("cosine_distance", "1 − cos"),),
    ),
    "gradient_noise": View(
        (
            Figure("λ₁", "lambda_1", "ends"),
            Figure("max", "lambda_1_max"),
            Figure("break-even step", "break_even_step", "step"),
            Figure("λ*/λ₁", "conditioning", "last"),
            Figure("trace", "trace", "last"),
        ),
        (("lambda_1", "λ₁"), ("trace", "trace")),
    ),
    "geometry": View(
        (
            Figure("from init", "distance_from_init", "last"),
            Figure("path", "path_length", "last"),
            Figure("PCA", "explained_variance", "list"),
        ),
        (("distance_from_init", "distance"), ("pca_1", "PCA 1")),
    ),
}


def view_of(metric_id: str) -> View:
    """The metric's view; one without figures for a metric this table does not know."""
    return VIEWS.get(metric_id, View((), ()))


def phrases(metric_id: str, result: MetricResult) -> list[str]:
    """The metric's figures as text, those without a value left out.

    A caveat comes first, in the place of a leading word: it says what the figures are instead.

    Args:
        metric_id: The metric.
        result: What it found.

    Returns:
        Phrases, the most important first.
    """
    figures = view_of(metric_id).figures
    caveat = [result.caveat] if result.caveat else []
    if caveat and figures and figures[0].kind == "word":
        figures = figures[1:]
    return caveat + [phrase for figure in figures if (phrase := _phrase(figure, result))]


def drawn_series(metric_id: str, result: MetricResult) -> tuple[str, list[float | None]] | None:
    """The label and values of the series to draw, or None if there is none worth a line."""
    flat: tuple[str, list[float | None]] | None = None
    for name, label in view_of(metric_id).drawn:
        series = result.series.get(name)
        values = [] if series is None else series.value
        defined = [value for value in values if value is not None]
        if len(defined) < 2:
            continue
        if max(defined) - min(defined) > 1e-6 * max(abs(value) for value in defined):
            return label, values
        flat = flat or (label, values)
    return flat


def _phrase(figure: Figure, result: MetricResult) -> str:
    if figure.only_if is not None:
        name, value = figure.only_if
        if result.summary.get(name) != value:
            return ""
    if figure.kind in {"ends", "last"}:
        text = _of_series(figure, result)
    else:
        text = _of_summary(figure, result.summary)
    return f"{figure.label} {text}".strip() if text and figure.kind != "items" else text


def _of_series(figure: Figure, result: MetricResult) -> str:
    series = result.series.get(figure.source)
    values = [] if series is None else [value for value in series.value if value is not None]
    if not values:
        return ""
    first, last = number(values[0]), number(values[-1])
    return f"{first} → {last}" if figure.kind == "ends" and first != last else last


def _of_summary(figure: Figure, summary: Mapping[str, Any]) -> str:
    value = summary.get(figure.source)
    if value is None and figure.kind == "finding":
        return "undetermined"
    if value is None or value == []:
        return ""
    match figure.kind:
        case "percent":
            return percent(float(value))
        case "step":
            return count(round(value))
        case "times":
            return f"{number(float(value))}× the expected"
        case "items":
            return counted(len(value), figure.label)
        case "list":
            return " + ".join(percent(float(share)) for share in value[:2])
    return _WORDS.get(value, number(value)) if figure.kind == "word" else number(value)


#: Words of the report that read better in another spelling than their own.
_WORDS: dict[Any, str] = {"ritz_lower_bound": "Ritz lower bound"}
