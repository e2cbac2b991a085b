"""The covariance of mini-batch gradients, its spectrum, and the break-even point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements, SampleGrams
from trajfile.engine.needs import Need, SampleGram
from trajfile.errors import UsageError
from trajfile.metrics import robust
from trajfile.metrics.base import Metric, Skipped
from trajfile.metrics.break_even import BreakEven, find_break_even
from trajfile.metrics.covariance import Spectrum, spectrum
from trajfile.metrics.ranges import Count, Factor, NotNegative, Several, Share
from trajfile.metrics.rowwise import lasts, results, rows
from trajfile.report import Finding, MetricResult, TensorResult, number, numbers, series_of
from trajfile.schema import GRADIENT_SAMPLES

Float = NDArray[np.float64]
Steps = NDArray[np.int64]

_GRAM = SampleGram()


@dataclass(frozen=True)
class GradientNoise(Metric):
    """Spectrum of the gradient covariance.

    Attributes:
        divisor: ``L`` or ``L-1``: what the sum over L samples is divided by.
        rank_tolerance: Eigenvalues at or below this share of the largest count as zero.
        fewest_samples: Fewest gradients at a step that give a spectrum.
        stands_out: How many times the mean of the non-zero eigenvalues λ₁ has to be, in the
            median, to be told from the largest of equal ones.
        stretch: Fewest steps in a stretch over which λ₁ keeps its level.
        penalty: What a change of level must win in squared residuals of ln λ₁, in units of their
            variance times ln n.
        rise: By what factor λ₁'s highest stretch has to exceed its first and its last one to
            hold a break-even point.
        fewest_steps: Fewest steps with samples that can show a break-even point.
    """

    divisor: Literal["L", "L-1"] = "L"
    rank_tolerance: Share = 1e-10
    fewest_samples: Several = 4
    stands_out: Factor = 2.0
    stretch: Count = 3
    penalty: NotNegative = 3.0
    rise: Factor = 1.25
    fewest_steps: Count = 8

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
        "K of batches of size S is the per-example K times (n − S)/(S(n − 1)). Intervals of λ₁ and "
        "of the trace are jackknife ones, each gradient left out in turn. Break-even point: where "
        "λ₁ is largest within its highest stretch of one level, if it rose to that stretch and "
        "fell from it; a stand-in for the first loss of stability along the top direction."
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
        if _stage(header) == "scaled":
            return Skipped(
                "The gradient samples were recorded with a loss scale in them, which their "
                "covariance cannot be told from; record them unscaled.",
                remedy="record them unscaled",
            )
        return frozenset({_GRAM})

    def compute(self, measured: Measurements) -> MetricResult:
        """Spectra, their scale per example, and the break-even point."""
        header = measured.header
        grams = measured.sample_grams[_GRAM]
        steps = grams.steps
        sizes = np.array([len(gram) for gram in grams.grams], np.int64)
        spectra = [self._spectrum(gram) for gram in grams.grams]
        top, least, trace, bias = (
            np.array([getattr(each, name) for each in spectra], np.float64)
            for name in ("top", "least", "trace", "top_bias")
        )
        if not np.isfinite(top).any():
            most = int(sizes.max(initial=0))
            return MetricResult(
                "insufficient",
                f"The spectrum needs at least {self.fewest_samples} finite gradient samples at a "
                f"step; found at most {most} recorded.",
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
            "lambda_1_low": np.array([each.top_range.low for each in spectra]),
            "lambda_1_high": np.array([each.top_range.high for each in spectra]),
            "trace_low": np.array([each.trace_range.low for each in spectra]),
            "trace_high": np.array([each.trace_range.high for each in spectra]),
        }
        batch, scale = _per_example(header)
        if scale is not None:
            shown["lambda_1_per_example"] = top * scale
        found = find_break_even(
            steps,
            top,
            fewest=self.fewest_steps,
            stretch=self.stretch,
            penalty=self.penalty,
            rise=self.rise,
        )
        ranks = np.array([each.rank for each in spectra], np.float64)
        mean = np.divide(trace, ranks, out=np.full(len(top), np.nan), where=ranks > 0)
        over = np.divide(top, mean, out=np.full(len(top), np.nan), where=mean > 0)
        peak, final = int(np.nanargmax(top)), int(np.flatnonzero(np.isfinite(top))[-1])
        summary: dict[str, Any] = {
            "lambda_1_max": number(top[peak]),
            "lambda_1_max_interval": spectra[peak].top_range.pair,
            "samples": int(np.median(sizes)),
            "rank": int(np.median(ranks[np.isfinite(top)])),
            "steps": int(np.isfinite(top).sum()),
            "batch_size": batch,
            "break_even_step": found.step,
            "break_even_range": None if found.step is None else [found.first, found.last],
            "break_even_rise": number(found.rise),
            "break_even_fall": number(found.fall),
            "lambda_1_max_step": int(steps[peak]),
            "lambda_1_last": number(top[final]),
            "lambda_1_last_interval": spectra[final].top_range.pair,
            "lambda_1_bias": number(robust.median(bias)),
            "lambda_1_over_mean": number(robust.median(over)),
            "conditioning_last": number(robust.last(conditioning)),
            "conditioning_median": number(robust.median(conditioning)),
            "trace_last": number(trace[final]),
            "trace_last_interval": spectra[final].trace_range.pair,
            "lambda_1_per_example_max": number(top[peak] * scale) if scale else None,
        }
        return MetricResult(
            "ok",
            summary=summary,
            series=series_of(steps, shown),
            per_tensor=_shares(grams),
            findings=_findings(summary, found),
            definition=self.definition,
            reference=self.reference,
            notes=self._notes(header, sizes, scale, summary, found),
            sentence=_sentence(summary),
            salience=0.45 if found.step is None else 0.55,
            options=self.options,
        )

    def _spectrum(self, gram: Float) -> Spectrum:
        return spectrum(
            gram,
            fewest=self.fewest_samples,
            unbiased=self.divisor == "L-1",
            tolerance=self.rank_tolerance,
        )

    def _notes(
        self,
        header: Header,
        sizes: Steps,
        scale: float | None,
        summary: dict[str, Any],
        found: BreakEven,
    ) -> list[str]:
        notes = [
            f"The sum over samples is divided by {self.divisor}. Few samples bias λ₁ upwards and "
            "see at most L − 1 directions, so λ* and λ*/λ₁ depend on L.",
            "Intervals are 95 % jackknife ones over the samples of a step: they say what another "
            "draw of mini-batches could have given, not another run.",
        ]
        over = summary["lambda_1_over_mean"]
        if over is not None and over < self.stands_out:
            notes.append(
                f"λ₁ is only {over:.3g} times the mean of the non-zero eigenvalues, which the "
                f"largest of {summary['rank']} equal ones can be by chance: with so few samples it "
                "measures the trace, and its interval does not cover that of more samples."
            )
        if found.reason is not None:
            notes.append(f"The break-even point is undetermined: {found.reason}.")
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
        if _stage(header) == "clipped":
            notes.append("The samples were clipped: where the clip acted, the spectrum is cut.")
        return notes


def _stage(header: Header) -> object:
    """What the samples have been through, which need not be what the gradients have."""
    return header.gradient.get("sample_stage") or header.gradient.get("stage")


def _per_example(header: Header) -> tuple[int | None, float | None]:
    """Batch size, and the factor from K of batches to K of single examples; None if unknown."""
    batch, total = (_positive(header.gradient.get(k)) for k in ("batch_size", "dataset_size"))
    if batch is None or total is None or batch >= total:
        return batch, None
    return batch, batch * (total - 1) / (total - batch)


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _findings(summary: dict[str, Any], found: BreakEven) -> list[Finding]:
    if found.step is None:
        return []
    return [
        Finding(
            "gradient_noise.break_even",
            "info",
            "The largest eigenvalue of the gradient covariance was highest from step "
            f"{found.first} to {found.last}, with its maximum at step {found.step}: "
            f"{found.rise:.3g} times its first level and {found.fall:.3g} times its last.",
            {
                "break_even_step": found.step,
                "break_even_range": summary["break_even_range"],
                "rise": number(found.rise),
                "fall": number(found.fall),
                "stretches": found.stretches,
                "lambda_1_max": summary["lambda_1_max"],
                "lambda_1_max_interval": summary["lambda_1_max_interval"],
                "lambda_1_last": summary["lambda_1_last"],
            },
        )
    ]


def _sentence(summary: dict[str, Any]) -> str | None:
    if summary["lambda_1_max"] == 0:  # all gradients alike: nothing to tell
        return None
    batch = f" of size {summary['batch_size']}" if summary["batch_size"] else ""
    told = (
        f"The covariance of {summary['samples']} mini-batch gradients{batch} had λ₁ at most "
        f"{summary['lambda_1_max']:.3g}"
    )
    if (interval := summary["lambda_1_max_interval"]) is not None:
        told += f" ({interval[0]:.2g} to {interval[1]:.2g})"
    told += f" at step {summary['lambda_1_max_step']}"
    if summary["conditioning_last"] is not None:
        told += f" and λ*/λ₁ = {summary['conditioning_last']:.3g} at the end"
    if summary["break_even_step"] is not None:
        first, last = summary["break_even_range"]
        told += (
            f"; it was highest from step {first} to {last}, the break-even point by this proxy "
            f"near step {summary['break_even_step']}"
        )
    return told + "."


def _shares(grams: SampleGrams) -> dict[str, TensorResult]:
    """Each tensor's part of the trace of the covariance; the parts add up to one."""
    if not grams.tensors:
        return {}
    whole = np.array([np.trace(gram) for gram in grams.grams])
    own = np.stack(list(grams.tensors.values()))
    shares = np.divide(own, whole, out=np.full(own.shape, np.nan), where=whole > 0)
    return results(
        list(grams.tensors),
        {
            "trace_share_median": numbers(rows(shares).medians),
            "trace_share_last": numbers(lasts(shares)),
        },
    )
