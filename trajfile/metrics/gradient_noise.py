"""The covariance of mini-batch gradients, its spectrum, and the break-even point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Need, SampleGram
from trajfile.errors import UsageError
from trajfile.metrics import robust
from trajfile.metrics.base import Metric, Skipped
from trajfile.metrics.smoothing import running_median
from trajfile.report import Finding, MetricResult, number, series
from trajfile.schema import GRADIENT_SAMPLES

Float = NDArray[np.float64]
Steps = NDArray[np.int64]

_GRAM = SampleGram()

#: With fewer samples the spectrum has too few eigenvalues to speak of.
_FEWEST_SAMPLES = 4


@dataclass(frozen=True)
class GradientNoise(Metric):
    """Spectrum of the gradient covariance.

    Attributes:
        divisor: ``L`` or ``L-1``: what the sum over L samples is divided by.
        rank_tolerance: Eigenvalues at or below this share of the largest count as zero.
        smooth: Width in recorded steps of the running median of λ₁ that the break-even point is
            read from.
        rise: By how much smoothed λ₁ has to exceed its first and last value at its maximum for
            that to be a break-even point; within that factor it counts as near its peak.
        fewest_steps: Fewest steps with samples that can show a break-even point.
    """

    divisor: Literal["L", "L-1"] = "L"
    rank_tolerance: float = 1e-10
    smooth: int = 5
    rise: float = 1.25
    fewest_steps: int = 8

    def __post_init__(self) -> None:
        """Refuse a divisor that is not one of the two.

        Raises:
            UsageError: If it is something else.
        """
        if self.divisor not in {"L", "L-1"}:
            raise UsageError(f"gradient_noise.divisor is 'L' or 'L-1', found {self.divisor!r}")

    id: ClassVar[str] = "gradient_noise"
    title: ClassVar[str] = "gradient covariance and break-even point"
    definition: ClassVar[str] = (
        "K = (1/L) Σ (g_i − ḡ)(g_i − ḡ)ᵀ over L mini-batch gradients at one θ. Its non-zero "
        "eigenvalues are those of the centred Gram matrix of the samples divided by L: λ₁ is the "
        "largest, λ* the smallest non-zero one (index min(L − 1, rank)), conditioning is λ*/λ₁. "
        "K of batches of size S is the per-example K times (n − S)/(S(n − 1)). Break-even point: "
        "where smoothed λ₁ has its maximum, if it rises to it and falls from it; a stand-in for "
        "the first loss of stability along the top direction."
    )
    reference: ClassVar[str] = (
        "Jastrzebski et al., The Break-Even Point on Optimization Trajectories of Deep Neural "
        "Networks, arXiv 2002.09572"
    )
    ingredients: ClassVar[str] = "gradient_samples (4 or more a step); batch_size and dataset_size"

    def needs(self, header: Header) -> frozenset[Need] | Skipped:
        """The centred Gram matrix of the samples at each step."""
        if not header.has(GRADIENT_SAMPLES):
            return Skipped(
                "The gradient covariance needs gradient_samples: gradients of several mini-batches "
                "at the same params. Gradients of consecutive steps cannot stand in for them.",
                GRADIENT_SAMPLES,
            )
        if header.gradient.get("stage") == "scaled":
            return Skipped(
                "The gradient samples were recorded with a loss scale in them, which their "
                "covariance cannot be told from; record them unscaled."
            )
        return frozenset({_GRAM})

    def compute(self, measured: Measurements) -> MetricResult:
        """Spectra, their scale per example, and the break-even point."""
        header = measured.header
        grams = measured.sample_grams[_GRAM]
        steps = grams.steps
        sizes = np.array([len(gram) for gram in grams.grams], np.int64)
        spectrum = np.array([self._spectrum(gram) for gram in grams.grams]).reshape(-1, 3)
        top, least, trace = spectrum.T
        if not np.isfinite(top).any():
            most = int(sizes.max(initial=0))
            return MetricResult(
                "insufficient",
                f"The spectrum needs at least {_FEWEST_SAMPLES} finite gradient samples at a step; "
                f"found at most {most} recorded.",
                summary={"samples": most},
                definition=self.definition,
                reference=self.reference,
                options=self.options,
            )
        conditioning = np.divide(least, top, out=np.full(len(top), np.nan), where=top > 0)
        mean_squared = np.asarray(grams.mean_norm_squared, np.float64)
        noise = np.divide(
            trace, mean_squared, out=np.full(len(top), np.nan), where=mean_squared > 0
        )
        shown = {
            "lambda_1": top,
            "lambda_star": least,
            "trace": trace,
            "conditioning": conditioning,
            "noise_to_signal": noise,
        }
        batch, scale = _per_example(header)
        if scale is not None:
            shown["lambda_1_per_example"] = top * scale
        break_even, plateau = self._break_even(steps, top)
        usual = int(np.median(sizes))
        summary: dict[str, Any] = {
            "lambda_1_max": number(np.nanmax(top)),
            "samples": usual,
            "batch_size": batch,
            "break_even_step": break_even,
            "break_even_range": plateau,
            "lambda_1_max_step": int(steps[np.nanargmax(top)]),
            "lambda_1_last": number(robust.last(top)),
            "conditioning_last": number(robust.last(conditioning)),
            "conditioning_median": number(robust.median(conditioning)),
            "trace_last": number(robust.last(trace)),
            "lambda_1_per_example_max": number(np.nanmax(top) * scale) if scale else None,
        }
        return MetricResult(
            "ok",
            summary=summary,
            series={name: series(steps, values) for name, values in shown.items()},
            findings=_findings(summary),
            definition=self.definition,
            reference=self.reference,
            notes=self._notes(header, sizes, scale),
            sentence=_sentence(summary),
            salience=0.45 if break_even is None else 0.55,
            options=self.options,
        )

    def _spectrum(self, gram: Float) -> tuple[float, float, float]:
        """λ₁, λ* and the trace of one step's covariance; NaN if it cannot be had."""
        count = len(gram)
        if count < _FEWEST_SAMPLES or not np.isfinite(gram).all():
            return np.nan, np.nan, np.nan
        values = np.linalg.eigvalsh(gram)[::-1] / (count - (self.divisor == "L-1"))
        top = max(float(values[0]), 0.0)
        # The mean is taken off, so at most L - 1 eigenvalues differ from zero.
        rank = min(count - 1, int((values > self.rank_tolerance * top).sum()))
        least = float(values[rank - 1]) if rank and top else np.nan
        return top, least, float(np.maximum(values, 0.0).sum())

    def _break_even(self, steps: Steps, top: Float) -> tuple[int | None, list[int] | None]:
        """Step of the maximum of smoothed λ₁, and the span in which it comes near that."""
        known = np.isfinite(top)
        if known.sum() < self.fewest_steps:
            return None, None
        steps, smooth = steps[known], running_median(top[known], self.smooth)
        peak = int(np.argmax(smooth))
        if not smooth[peak] >= self.rise * max(smooth[0], smooth[-1]) > 0:
            return None, None
        near = steps[smooth >= smooth[peak] / self.rise]
        return int(steps[peak]), [int(near[0]), int(near[-1])]

    def _notes(self, header: Header, sizes: Steps, scale: float | None) -> list[str]:
        notes = [
            f"The sum over samples is divided by {self.divisor}. Few samples bias λ₁ upwards and "
            "see at most L − 1 directions, so λ* depends on L."
        ]
        if len(np.unique(sizes)) > 1:
            notes.append(
                f"The number of samples varies from {sizes.min()} to {sizes.max()}: λ₁ of few "
                "samples is larger on average, so compare steps with equal numbers."
            )
        if scale is None:
            notes.append(
                "Eigenvalues scale with the batch size, so compare them only at equal batch size; "
                "with gradient batch_size and dataset_size recorded they are given per example too."
            )
        if header.gradient.get("stage") == "clipped":
            notes.append("The samples were clipped: where the clip acted, the spectrum is cut.")
        return notes


def _per_example(header: Header) -> tuple[int | None, float | None]:
    """Batch size, and the factor from K of batches to K of single examples; None if unknown."""
    batch, total = (_positive(header.gradient.get(k)) for k in ("batch_size", "dataset_size"))
    if batch is None or total is None or batch >= total:
        return batch, None
    return batch, batch * (total - 1) / (total - batch)


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _findings(summary: dict[str, Any]) -> list[Finding]:
    if summary["break_even_step"] is None:
        return []
    return [
        Finding(
            "gradient_noise.break_even",
            "info",
            "The largest eigenvalue of the gradient covariance rose until about step "
            f"{summary['break_even_step']} and has fallen since; it was near its peak from step "
            f"{summary['break_even_range'][0]} to {summary['break_even_range'][1]}.",
            {
                "break_even_step": summary["break_even_step"],
                "break_even_range": summary["break_even_range"],
                "lambda_1_max": summary["lambda_1_max"],
                "lambda_1_last": summary["lambda_1_last"],
            },
        )
    ]


def _sentence(summary: dict[str, Any]) -> str:
    batch = f" of size {summary['batch_size']}" if summary["batch_size"] else ""
    told = (
        f"The covariance of {summary['samples']} mini-batch gradients{batch} had λ₁ at most "
        f"{summary['lambda_1_max']:.4g} (step {summary['lambda_1_max_step']})"
    )
    if summary["conditioning_last"] is not None:
        told += f" and λ*/λ₁ = {summary['conditioning_last']:.3g} at the end"
    if summary["break_even_step"] is not None:
        first, last = summary["break_even_range"]
        told += (
            f"; smoothed λ₁, whose peak marks the break-even point, was highest near step "
            f"{summary['break_even_step']} (near its peak from {first} to {last})"
        )
    return told + "."
