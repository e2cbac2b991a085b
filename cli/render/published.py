"""The names under which each metric publishes its results: the contract of the report."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """Names in a metric's entry of the report.

    Attributes:
        series: Values over steps.
        summary: Numbers and words; null where undefined.
    """

    series: tuple[str, ...]
    summary: tuple[str, ...]


PUBLISHED: dict[str, Published] = {
    "norms": Published(("params", "gradients", "updates", "relative_update"), ("non_finite_step",)),
    "alignment": Published(
        ("inner", "update_norm_squared", "loss_gap", "distance_squared", "cosine", "gamma"),
        (
            "gamma_trajectory",
            "gamma_aggregate",
            "violated_fraction",
            "cosine_mean",
            "reference_step",
        ),
    ),
    "elr": Published(
        ("rho_squared", "elr", "effective_gradient_norm", "angular_update"),
        (
            "scale_invariant_tensors",
            "elr_first",
            "elr_last",
            "regime",
            "regime_since_step",
            "equilibrium_ratio",
        ),
    ),
    "imbalance": Published(
        ("max_abs", "frobenius_max"),
        (
            "pairs",
            "max_abs_first",
            "max_abs_last",
            "phase_boundary_step",
            "decay_rate",
            "law_residual",
        ),
    ),
    "sharpness": Published(
        ("secant", "ritz", "threshold", "recorded", "exact"),
        ("estimator", "max", "last", "threshold_last", "edge_ratio_last", "at_edge"),
    ),
    "periodicity": Published(
        ("cosine_distance",),
        (
            "periodic",
            "jump_steps",
            "period_mean",
            "period_cv",
            "delta",
            "law_residual_median",
        ),
    ),
    "gradient_noise": Published(
        ("lambda_1", "lambda_star", "trace", "conditioning"),
        ("lambda_1_max", "samples", "batch_size", "break_even_step"),
    ),
    "geometry": Published(
        ("distance_from_init", "path_length", "pca_1", "pca_2"), ("explained_variance",)
    ),
}
