"""The samples are what their README says: sound, small, and each shows its phenomenon."""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import trajfile

SAMPLES = Path(__file__).parents[2] / "sample_data"
RECORDED = sorted(p for p in SAMPLES.iterdir() if p.suffix in {".h5", ".zarr"})
SCRIPTS = sorted(SAMPLES.glob("*.py"))
LIMIT = 3_000_000


@cache
def report(name):
    return trajfile.analyze(SAMPLES / name, device="cpu")


def summary(name, metric):
    result = report(name).metrics[metric]
    assert result.status == "ok", result.reason
    return result.summary


def size(path):
    return sum(f.stat().st_size for f in [path, *path.rglob("*")] if f.is_file())


def script(name):
    spec = importlib.util.spec_from_file_location(name, SAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", RECORDED, ids=lambda p: p.name)
def test_sample_is_valid_small_and_described(path):
    assert trajfile.validate(path) == []
    assert size(path) < LIMIT
    assert f"`{path.name}`" in (SAMPLES / "README.md").read_text()


def test_every_script_is_described_and_both_containers_are_there():
    text = (SAMPLES / "README.md").read_text()
    assert [s.name for s in SCRIPTS if f"`{s.name}`" not in text] == []
    assert {p.suffix for p in RECORDED} == {".h5", ".zarr"}


@pytest.mark.parametrize("path", RECORDED, ids=lambda p: p.name)
def test_every_report_is_sound(path):
    whole = report(path.name)
    assert [n for n, m in whole.metrics.items() if m.status == "error"] == []
    assert whole.metrics["norms"].summary["non_finite_step"] is None
    assert whole.verdict
    assert trajfile.Report.from_dict(whole.to_dict()).to_dict() == whole.to_dict()


def test_edge_of_stability_is_found_from_the_recorded_sharpness_and_from_the_steps_alone():
    measured = summary("edge_of_stability.h5", "sharpness")
    assert measured["estimator"] == "recorded"
    assert measured["at_edge"] is True
    assert measured["threshold_last"] == pytest.approx(2 / 0.3)
    assert measured["edge_ratio_last"] == pytest.approx(1, abs=0.05)
    bare = summary("edge_of_stability_bare.h5", "sharpness")
    assert bare["estimator"] == "ritz_lower_bound"
    assert bare["at_edge"] is True
    # Both files hold one run, so what is said without the Hessian can be held against it.
    assert bare["last"] == pytest.approx(measured["last"], rel=0.02)
    for low, high in (measured["edge_ratio_interval"], bare["edge_ratio_interval"]):
        assert 0.95 < low < 1 < high < 1.05
    exact = report("edge_of_stability.h5").metrics["sharpness"].series["recorded"]
    assert max(exact.value) > 1.1 * measured["threshold_last"] > exact.value[0]
    ritz = report("edge_of_stability_bare.h5").metrics["sharpness"].series["ritz"]
    bound = dict(zip(ritz.step, ritz.value, strict=True))
    both = zip(exact.step, exact.value, strict=True)
    known = [(bound[step], value) for step, value in both if bound.get(step) is not None]
    assert len(known) > 50
    assert all(low <= 1.02 * value for low, value in known)


def test_periodic_jumps_are_where_every_single_step_saw_them():
    found = summary("periodic_jumps.h5", "periodicity")
    # Watched at every step while this file was recorded: where each of the occasions begins
    # (1 - cos > 0.02) on which it passes 0.05.
    turned = [5096, 7460, 8106, 10113, 13073, 14848, 16872, 19263]
    assert found["periodic"] is True
    assert found["method"] == "norm"
    assert len(found["jump_steps"]) == len(turned)
    for step, true in zip(found["jump_steps"], turned, strict=True):
        assert step <= true < step + 100
    assert found["period_mean"] == pytest.approx(np.diff(turned).mean(), rel=0.05)


def test_control_without_weight_decay_does_not_jump():
    assert summary("no_jumps.h5", "periodicity")["periodic"] is False


def test_toy_jumps_periodically_and_follows_the_exact_law():
    found = summary("periodic_toy.h5", "periodicity")
    assert found["periodic"] is True
    assert found["method"] == "cosine"
    assert found["law_residual_median"] < 1e-12
    with trajfile.open(SAMPLES / "periodic_toy.h5") as run:
        path = np.asarray(run["params"]["theta"])
    angle = np.diff(np.unwrap(np.arctan2(path[:, 1], path[:, 0])))
    steps = np.flatnonzero(1 - np.cos(angle) > found["delta"])
    begins = steps[np.diff(steps, prepend=-100) > 10]
    assert found["jump_steps"] == begins.tolist()
    assert len(begins) > 10


@pytest.mark.parametrize(
    ("name", "regime", "rate"),
    [
        ("convergence", "convergence", 3e-4),
        ("equilibrium", "chaotic_equilibrium", 0.1),
        ("divergence", "divergence", 1.0),
    ],
)
def test_regimes_follow_the_effective_learning_rate(name, regime, rate):
    found = summary(f"three_regimes_{name}.h5", "elr")
    assert found["regime"] == regime
    assert found["elr_first"] == pytest.approx(rate, rel=1e-5)
    assert found["elr_last"] == pytest.approx(rate, rel=1e-5)


def test_two_phases_are_told_apart_and_the_law_holds():
    found = summary("two_phases.h5", "imbalance")
    assert found["regularisation_phase"] is True
    assert found["phase_boundary_step"] < 100
    assert found["decay_rate"] == pytest.approx(-2 * 0.5 * 1e-3, rel=0.01)
    low, high = found["decay_rate_interval"]
    assert -1.01e-3 < low <= found["decay_rate"] <= high < -0.99e-3
    assert found["max_abs_last"] < found["max_abs_first"] / 40
    assert found["law_residual"] < 1e-9


def test_gradient_covariance_is_measured_at_both_rates():
    for size in ("small", "large"):
        found = summary(f"gradient_noise_lr_{size}.h5", "gradient_noise")
        assert found["samples"] == 12
        assert found["batch_size"] == 32
        with trajfile.open(SAMPLES / f"gradient_noise_lr_{size}.h5") as run:
            steps = run.steps("gradient_samples")
            rows = [np.asarray(run["gradient_samples"][n]) for n in run.tensors("gradient_samples")]
        drawn = np.concatenate([r.reshape(len(r), -1) for r in rows], axis=1)[
            steps == found["lambda_1_max_step"]
        ].astype(np.float64)
        covariance = np.cov(drawn.T, bias=True)  # the full matrix, not the Gram of the samples
        largest = np.linalg.eigvalsh(covariance)[-1]
        assert found["lambda_1_max"] == pytest.approx(largest, rel=1e-6)


def test_the_break_even_point_is_named_where_it_stands_out_of_the_scatter_and_only_there():
    clear = summary("gradient_noise_lr_small.h5", "gradient_noise")
    first, last = clear["break_even_range"]
    assert first <= clear["break_even_step"] == clear["lambda_1_max_step"] <= last
    assert clear["break_even_rise"] > 5
    scattered = report("gradient_noise_lr_large.h5").metrics["gradient_noise"]
    assert scattered.summary["break_even_step"] is None
    assert any("undetermined" in note for note in scattered.notes)
    for metric in (clear, scattered.summary):
        low, high = metric["lambda_1_max_interval"]
        assert low < metric["lambda_1_max"] < high


def test_curvature_of_noisy_gradients_is_not_given():
    for name in ("gradient_noise_lr_small.h5", "quickstart.zarr"):
        sharpness = report(name).metrics["sharpness"]
        assert sharpness.status == "insufficient"
        assert sharpness.summary["max"] is None
        assert len(sharpness.series["secant"].value) > 10


def test_aligned_updates_have_the_larger_gamma():
    aligned, misaligned = summary("aligned.h5", "alignment"), summary("misaligned.h5", "alignment")
    assert aligned["gamma_aggregate"] > 5 * misaligned["gamma_aggregate"]
    assert aligned["gamma_trajectory"] > 0 > misaligned["gamma_trajectory"]
    assert aligned["violated_fraction"] == 0.0
    assert misaligned["violated_fraction"] > 0.2


def test_recording_again_gives_the_same_run(tmp_path):
    again = tmp_path / "aligned.h5"
    module = script("record_alignment")
    module.record(again, **module.SETTINGS["aligned"])
    new = trajfile.analyze(again, metrics=["alignment"], device="cpu").metrics["alignment"].summary
    old = summary("aligned.h5", "alignment")
    for key in ("gamma_trajectory", "gamma_aggregate", "cosine_mean"):
        assert new[key] == pytest.approx(old[key], rel=1e-2), key  # another machine rounds anew
