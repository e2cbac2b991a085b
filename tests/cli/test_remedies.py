"""What could not be computed says on the screen what to record or declare."""

import numpy as np
import pytest

import trajfile


@pytest.fixture
def bare(tmp_path):
    """Params of one tensor and nothing else: most metrics cannot answer."""
    path = tmp_path / "bare.h5"
    with trajfile.Writer(path) as writer:
        for step in range(30):
            writer.append(step, params={"w": np.full((3, 4), 1.0 + 0.5**step)})
    return path


def test_every_skipped_metric_names_its_remedy_on_the_screen(run, bare):
    screen = run("analyze", bare).out
    assert len(screen.splitlines()) <= 40
    text = " ".join(screen.split())
    assert "declare groups['scale_invariant']" in text
    assert "declare groups['layers']" in text
    assert "gradient_samples" in text


def test_every_skipped_metric_has_a_remedy_in_the_report(bare):
    metrics = trajfile.analyze(bare).metrics
    skipped = {name: m.remedy for name, m in metrics.items() if m.status == "skipped"}
    assert {"elr", "imbalance", "sharpness", "gradient_noise"} <= skipped.keys()
    assert skipped["sharpness"] == "record gradients"
    assert all(skipped.values())
    assert all(m.remedy is None for m in metrics.values() if m.status == "ok")
