"""Reports written out by hand, to look at screens without computing anything."""

import math

from trajfile.report import (
    Finding,
    MetricResult,
    Report,
    Run,
    Series,
    Source,
    StreamSource,
    TensorResult,
)

HOSTILE = "\x1b[31mred\x07[bold]\u202egnp.exe"


def series(function, rows=120, stride=50):
    return Series([k * stride for k in range(rows)], [function(k) for k in range(rows)])


def periodic(tensor="fc1.weight", path="periodic.h5", findings=3):
    """A run with periodic jumps, gradient samples absent, one tensor far from the others."""

    def saw(k):
        return 12.0 - 0.1 * (k % 30)

    found = [
        Finding("periodicity.jumps", "warn", "Training jumps 6 times, about every 3 000 steps.", {})
    ] + [
        Finding(f"norms.tensor_{k}", "info", f"{tensor} moved by more than usual. " * 3, {"k": k})
        for k in range(findings - 1)
    ]
    names = [tensor, "fc2.weight", "fc3.weight", "head.weight"]
    metrics = {
        "norms": MetricResult(
            "ok",
            summary={"non_finite_step": None},
            series={
                "params": series(saw),
                "gradients": series(lambda k: math.exp(-k / 20)),
                "relative_update": series(lambda k: 1e-3),
            },
            per_tensor={
                name: TensorResult(
                    {
                        "moved": name != "head.weight",
                        "relative_update_median": 0.31 if not k else 0.002 + k * 1e-4,
                    }
                )
                for k, name in enumerate(names)
            },
        ),
        "alignment": MetricResult(
            "ok",
            summary={
                "gamma_trajectory": 0.0123,
                "gamma_aggregate": 1.3333333,
                "violated_fraction": 0.034,
                "cosine_mean": 0.21,
            },
            series={"cosine": series(lambda k: None if k < 5 else k / 120)},
        ),
        "elr": MetricResult(
            "ok",
            summary={"regime": "chaotic_equilibrium", "equilibrium_ratio": 1.02},
            series={
                "elr": series(lambda k: 0.03 / saw(k) ** 2),
                "effective_gradient_norm": series(lambda k: 30 + k % 7),
            },
        ),
        "imbalance": MetricResult("insufficient", "one snapshot; at least three are needed"),
        "sharpness": MetricResult("error", "LinAlgError: SVD did not converge"),
        "periodicity": MetricResult(
            "ok",
            summary={
                "periodic": True,
                "jump_steps": [3000, 6000, 9000, 12000, 15000, 18000],
                "period_mean": 3000.0,
                "period_cv": 0.04,
                "law_residual_median": 1.2e-7,
            },
            series={"cosine_distance": series(lambda k: 0.4 if k % 30 == 0 else 1e-4)},
            sentence="Training destabilised periodically: 6 jumps, one every 3000 steps (4%).",
            salience=0.9,
        ),
        "gradient_noise": MetricResult(
            "skipped",
            "gradient_samples were not recorded: append L mini-batch gradients at one point",
        ),
        "geometry": MetricResult(
            "ok",
            summary={"explained_variance": [0.81, 0.09, 0.02]},
            series={
                "distance_from_init": series(lambda k: math.sqrt(k)),
                "path_length": series(lambda k: float(k)),
            },
        ),
    }
    return Report(
        source=Source(
            path=path,
            container="hdf5",
            format_version=(1, 0),
            uuid="0f5b7e52-8e5a-4b8e-9a55-51b1c2a7b6f1",
            parameters=12_288,
            streams={
                "params": StreamSource(120, 0, 5950),
                "gradients": StreamSource(120, 0, 5950),
                "updates": StreamSource(119, 0, 5900),
            },
            tensors=4,
            optimizer={"name": "SGD", "learning_rate": 0.03, "weight_decay": 0.01},
        ),
        run=Run("cpu", 0.31, 12_345_678, 1, 2**31, 2**26),
        metrics=metrics,
        findings=found,
        verdict="Training destabilised periodically: 6 jumps, one every 3000 steps (4%).",
        trajfile_version="0.1.0",
    )
