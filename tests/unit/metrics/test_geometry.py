import numpy as np
import pytest

from tests.recorded import recorded
from tests.twin import Dense, measure
from trajfile.analyze import analyze
from trajfile.metrics.base import Skipped
from trajfile.metrics.geometry import Geometry
from trajfile.reader import Trajectory


def run(theta, steps=None, names=("a", "b")):
    """A run whose rows are split into two tensors."""
    half = theta.shape[1] // 2
    parts = theta[:, :half], theta[:, half:]
    at = np.arange(len(theta)) if steps is None else np.asarray(steps)
    return Dense(
        steps={"params": at},
        arrays={"params": dict(zip(names, parts, strict=True))},
    )


def result(dense, **options):
    metric = Geometry(**options)
    return metric.compute(measure(dense, metric.needs(dense.header)))


def walk(rows=30, columns=40, seed=0):
    rng = np.random.default_rng(seed)
    return 100 + np.cumsum(rng.standard_normal((rows, columns)), axis=0)


def test_against_whole_vectors():
    theta = walk()
    got = result(run(theta))
    away = np.linalg.norm(theta - theta[0], axis=1)
    moves = np.linalg.norm(np.diff(theta, axis=0), axis=1)
    assert got.series["distance_from_init"].value == pytest.approx(list(away))
    assert got.series["path_length"].value == pytest.approx([0, *np.cumsum(moves)])
    assert got.summary["straightness"] == pytest.approx(away[-1] / moves.sum())

    u, s, _ = np.linalg.svd(theta - theta.mean(axis=0), full_matrices=False)
    share = s**2 / (s**2).sum()
    assert got.summary["explained_variance"] == pytest.approx(list(share[:10]))
    for component, name in enumerate(("pca_1", "pca_2")):
        axis = u[:, component] * s[component]
        axis = -axis if axis[-1] < axis[0] else axis
        assert got.series[name].value == pytest.approx(list(axis))
        assert got.series[name].value[-1] >= got.series[name].value[0]

    first = theta[:, :20]
    assert got.per_tensor["a"].summary == {
        "distance_last": pytest.approx(np.linalg.norm(first[-1] - first[0])),
        "path_length_last": pytest.approx(np.linalg.norm(np.diff(first, axis=0), axis=1).sum()),
        "straightness": pytest.approx(
            np.linalg.norm(first[-1] - first[0])
            / np.linalg.norm(np.diff(first, axis=0), axis=1).sum()
        ),
    }
    every_other = np.concatenate([theta[::2], theta[-1:]])  # 30 snapshots: the last one is odd
    chords = np.linalg.norm(np.diff(every_other, axis=0), axis=1).sum()
    assert got.summary["path_length_every_other"] == pytest.approx(chords)
    assert got.summary["path_stride"] == 1


def test_a_random_walk_explains_no_more_than_a_random_walk():
    """In many dimensions the shares are those of arXiv 1806.08805: 6/π² for the first."""
    got = result(run(walk(60, 20_000)))
    shares = 1 / np.sin(np.pi * np.arange(1, 60) / 120) ** 2
    expected = pytest.approx(list(shares[:10] / shares.sum()), rel=0.05)
    assert got.summary["random_walk_explained"] == expected
    assert got.summary["explained_variance"] == expected
    assert got.summary["random_walk_explained"][0] == pytest.approx(6 / np.pi**2, rel=0.01)


def test_the_walk_beside_the_run_takes_steps_of_the_same_lengths():
    rng = np.random.default_rng(1)
    lengths = 0.9 ** np.arange(40)
    theta = np.cumsum(lengths[:, None] * rng.standard_normal((40, 30_000)), axis=0)
    got = result(run(theta), pca_rows=12)
    assert got.summary["explained_variance"] == pytest.approx(
        got.summary["random_walk_explained"], rel=0.05
    )
    assert got.summary["random_walk_explained"][0] > 0.66  # not 6/π²
    broken = theta.copy()
    broken[20] = np.nan
    skipped = result(run(broken), pca_rows=40).summary["random_walk_explained"]
    assert skipped[0] == pytest.approx(result(run(theta)).summary["random_walk_explained"][0], 0.1)


def test_a_straight_line_is_one_component():
    theta = np.outer(np.arange(12.0), np.array([3.0, 4.0]))
    got = result(run(theta))
    assert got.summary["distance_last"] == pytest.approx(55.0)
    assert got.summary["straightness"] == pytest.approx(1.0)
    assert got.summary["explained_variance"][0] == pytest.approx(1.0)
    assert got.series["pca_1"].value == pytest.approx(list(5 * (np.arange(12) - 5.5)))


def test_a_circle_fills_a_plane():
    angle = np.linspace(0, 2 * np.pi, 41)[:-1]
    got = result(run(1e3 + np.stack([np.cos(angle), np.sin(angle)], axis=1)))
    assert got.summary["explained_variance"][:2] == pytest.approx([0.5, 0.5])


def test_small_moves_on_large_params_keep_their_digits():
    """Float32 snapshots that move by 1e-6 of their size a step, exactly representable."""
    theta = np.full((20, 64), 1.0, np.float32)
    theta += np.arange(20, dtype=np.float32)[:, None] * np.float32(2.0**-20)
    got = result(run(theta))
    expected = 8 * 2.0**-20 * np.arange(20)
    assert got.series["path_length"].value == pytest.approx(list(expected), rel=1e-12)
    assert got.series["distance_from_init"].value == pytest.approx(list(expected), rel=1e-12)


def test_pca_takes_evenly_spaced_rows_and_says_so():
    got = result(run(walk(200)), pca_rows=20)
    steps = got.series["pca_1"].step
    assert len(steps) == 20
    assert steps[0] == 0
    assert steps[-1] == 199
    assert max(np.diff(steps)) - min(np.diff(steps)) <= 1
    assert any("20 of 200 snapshots" in note for note in got.notes)


def test_rows_that_are_not_finite_are_left_out_of_the_pca():
    theta = walk(20)
    theta[15:] = np.nan
    got = result(run(theta))
    whole = result(run(theta[:15]))
    assert got.series["pca_1"].value == pytest.approx(whole.series["pca_1"].value)
    assert got.series["distance_from_init"].value[15:] == [None] * 5
    assert got.summary["path_length_last"] == pytest.approx(whole.summary["path_length_last"])


def test_sparse_snapshots_are_said_to_give_chords():
    got = result(run(walk(5), steps=[0, 10, 20, 30, 40]))
    assert any("up to 10 steps apart" in note and "chords" in note for note in got.notes)
    assert got.summary["path_stride"] == 10


def test_two_snapshots():
    got = result(run(np.array([[0.0, 0.0], [3.0, 4.0]])))
    assert got.status == "ok"
    assert got.summary["explained_variance"] == [pytest.approx(1.0)]
    assert got.series["pca_1"].value == pytest.approx([-2.5, 2.5])


def test_one_snapshot_is_insufficient_and_none_is_skipped():
    got = result(run(np.ones((1, 4))))
    assert got.status == "insufficient"
    assert got.summary["explained_variance"] == []
    assert got.sentence is None
    assert isinstance(Geometry().needs(Dense({}, {}).header), Skipped)


def test_snapshots_that_are_nowhere_finite_are_insufficient():
    got = result(run(np.full((5, 4), np.nan)))
    assert got.status == "insufficient"
    assert "found 0 of 5" in got.reason
    assert got.summary["distance_last"] is None


def test_a_run_that_never_moves():
    got = result(run(np.ones((6, 4))))
    assert got.series["distance_from_init"].value == [0.0] * 6
    assert got.summary["explained_variance"] == []
    assert got.summary["straightness"] is None
    assert got.summary["random_walk_explained"] == []
    assert got.sentence is None


def late_run():
    """Sixty rows of two tensors, with a third that joins at the snapshot of step 50, row 25."""
    theta = walk(rows=60)
    dense = run(theta, steps=2 * np.arange(60))
    rng = np.random.default_rng(3)
    dense.arrays["params"]["head"] = np.cumsum(rng.standard_normal((60, 7)), axis=0)
    dense.scalars["learning_rate"] = (np.array([0]), np.array([0.1]))
    return theta, dense, {"params": {"head": 25}}


def test_a_tensor_that_joins_late_is_left_out_of_all_totals():
    theta, dense, late = late_run()
    report = analyze(Trajectory(recorded(dense, late)), "geometry,norms,alignment")
    got, alone = report.metrics["geometry"], result(run(theta, steps=2 * np.arange(60)))
    for name, curve in alone.series.items():
        assert got.series[name].value == pytest.approx(curve.value, rel=1e-9, abs=1e-9), name
    for name, figure in alone.summary.items():
        assert got.summary[name] == pytest.approx(figure, rel=1e-9), name
    moves = np.linalg.norm(np.diff(dense.arrays["params"]["head"][25:], axis=0), axis=1)
    head = got.per_tensor["head"].summary
    assert head["path_length_last"] == pytest.approx(moves.sum())
    assert head["distance_last"] is None
    for metric in ("geometry", "norms", "alignment"):
        said = [n for n in report.metrics[metric].notes if "joined" in n]
        assert len(said) == 1, metric
        assert said[0].startswith("1 tensor joined at step 50: head; "), metric


def test_only_what_joins_within_the_selection_is_late():
    _, dense, late = late_run()
    got = analyze(Trajectory(recorded(dense, late)), "geometry", steps="60:")
    theta = np.concatenate(list(dense.arrays["params"].values()), axis=1)[30:]
    geometry = got.metrics["geometry"]
    assert geometry.summary["distance_last"] == pytest.approx(np.linalg.norm(theta[-1] - theta[0]))
    assert not any("joined" in note for note in geometry.notes)


def test_a_late_tensor_alone_counts_from_where_it_joined():
    _, dense, late = late_run()
    got = analyze(Trajectory(recorded(dense, late)), "geometry", params="head").metrics["geometry"]
    head = dense.arrays["params"]["head"][25:]
    assert got.summary["distance_last"] == pytest.approx(np.linalg.norm(head[-1] - head[0]))
    moves = np.linalg.norm(np.diff(head, axis=0), axis=1)
    assert got.summary["path_length_last"] == pytest.approx(moves.sum())
