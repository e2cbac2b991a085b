from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tests.toys_layers import linear_network, two_scalars
from tests.twin import Dense, measure
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Timeline
from trajfile.metrics.base import Skipped
from trajfile.metrics.imbalance import Imbalance
from trajfile.metrics.layer_chain import layer_chain
from trajfile.metrics.layer_pairs import plan_pairs
from trajfile.metrics.phases import floor_reached, is_steeper, slope


def result(dense, **options):
    metric = Imbalance(**options)
    return metric.compute(measure(dense, metric.needs(dense.header)))


def shapes(**named):
    """A run of one snapshot of ones."""
    return Dense(
        steps={"params": np.arange(1)},
        arrays={"params": {k.replace("_", "."): np.ones((1, *v)) for k, v in named.items()}},
    )


def test_gradient_descent_on_two_scalars_keeps_the_imbalance():
    dense = two_scalars(1e-3, 20_000, every=1000)
    got = result(dense)
    assert dense.arrays["params"]["w1"][-1].item() == pytest.approx(0.559667, abs=5e-7)
    assert dense.arrays["params"]["w2"][-1].item() == pytest.approx(1.786777, abs=5e-7)
    assert got.summary["max_abs_last"] == pytest.approx(2.879344, abs=5e-7)
    assert got.summary["max_abs_first"] == pytest.approx(2.88)
    assert got.series["frobenius_max"].value[-1] == pytest.approx(2.879344, abs=5e-7)
    # Flatness of d = 2 at the minimum, L'' sqrt(D^2 + 4) with L'' = 2, from the reported D.
    flat = 2 * np.sqrt(got.summary["max_abs_last"] ** 2 + 4)
    assert flat == pytest.approx(7.0116, abs=5e-5)


def test_weight_decay_shrinks_the_imbalance_of_two_scalars():
    got = result(two_scalars(0.01, 100_000, decay=1e-3, every=1000))
    ratio = got.summary["max_abs_last"] / got.summary["max_abs_first"]
    assert ratio == pytest.approx(0.13502, abs=5e-6)
    assert got.summary["decay_rate_expected"] == pytest.approx(-2e-5)
    assert got.summary["decay_rate"] == pytest.approx(-2e-5, rel=0.01)


def test_against_whole_matrices():
    dense = linear_network(0.02, 30, decay=1e-2)
    got = result(dense)
    weights = list(dense.arrays["params"].values())
    for i in range(31):
        norms = [np.linalg.norm(w[i]) ** 2 for w in weights]
        worst = max(abs(a - b) for a in norms for b in norms)
        assert got.series["max_abs"].value[i] == pytest.approx(worst)
        balances = [b[i].T @ b[i] - a[i] @ a[i].T for a, b in pairwise(weights)]
        frobenius = max(np.linalg.norm(d) for d in balances)
        assert got.series["frobenius_max"].value[i] == pytest.approx(frobenius)
        neuron = max(np.abs(np.diag(d)).max() for d in balances)
        assert got.series["neuron_max"].value[i] == pytest.approx(neuron)
    name, first = "fc1.weight", weights[0]
    assert got.per_tensor[name].summary == {
        "squared_norm_first": pytest.approx(np.linalg.norm(first[0]) ** 2),
        "squared_norm_last": pytest.approx(np.linalg.norm(first[-1]) ** 2),
        "next_above_first": pytest.approx(
            np.linalg.norm(weights[1][0]) ** 2 - np.linalg.norm(first[0]) ** 2
        ),
        "next_above_last": pytest.approx(
            np.linalg.norm(weights[1][-1]) ** 2 - np.linalg.norm(first[-1]) ** 2
        ),
    }
    assert got.per_tensor["fc3.weight"].summary["next_above_last"] is None


@pytest.mark.parametrize("batch", [None, 4])
def test_linear_layers_obey_the_law_to_rounding(batch):
    got = result(linear_network(0.02, 40, decay=1e-2, batch=batch))
    assert got.summary["law_residual"] < 1e-10
    assert got.summary["law_steps"] == 2 * 40
    assert got.findings == []


def test_gradients_of_the_wrong_step_break_the_law():
    dense = linear_network(0.02, 40, batch=4)
    for rows in dense.arrays["gradients"].values():
        rows[:] = np.roll(rows, 1, axis=0)
    got = result(dense)
    assert got.summary["law_residual"] > 0.1
    assert [f.id for f in got.findings] == ["imbalance.law"]
    assert got.findings[0].severity == "info"


def test_a_change_below_the_recorded_precision_is_not_held_against_the_law():
    dense = linear_network(1e-6, 20)
    rounded = replace(
        dense,
        arrays={
            s: {k: v.astype(np.float32) for k, v in named.items()}
            for s, named in dense.arrays.items()
        },
    )
    got = result(rounded)
    assert got.summary["law_residual"] is None
    assert any("recorded precision" in note for note in got.notes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer": {"name": "SGD", "momentum": 0.9}}, "plain SGD"),
        ({"optimizer": {"name": "AdamW", "betas": [0.9, 0.999]}}, "plain SGD"),
        ({"gradient": {"stage": "clipped"}}, "clipped"),
        ({"scalars": {}}, "learning_rate"),
    ],
)
def test_where_the_law_does_not_apply_it_is_not_checked(change, said):
    got = result(replace(linear_network(0.02, 10), **change))
    assert got.status == "ok"
    assert got.summary["law_residual"] is None
    assert got.summary["max_abs_last"] is not None
    assert any(said in note for note in got.notes)


def test_needs_stated_twice_are_equal():
    header = linear_network(0.02, 10).header
    assert Imbalance().needs(header) == Imbalance().needs(header)


def test_inferred_layers_are_not_held_to_the_law_of_linear_ones():
    dense = linear_network(0.02, 40, batch=4)
    for rows in dense.arrays["gradients"].values():
        rows[:] = np.roll(rows, 1, axis=0)
    got = result(replace(dense, groups={}))
    assert got.summary["law_residual"] > 0.1
    assert got.findings == []
    assert any("inferred" in note for note in got.notes)


def test_sparse_snapshots_measure_everything_but_the_law():
    got = result(linear_network(0.02, 40, every=10))
    assert got.summary["law_residual"] is None
    assert len(got.series["frobenius_max"].value) == 5
    assert any("no two adjacent steps" in note for note in got.notes)


def test_bursts_of_gradients_among_denser_params_still_test_the_law():
    dense = linear_network(0.02, 40)
    keep = np.array([0, 1, 2, 20, 21, 40])
    dense.steps["gradients"] = keep
    for name, rows in dense.arrays["gradients"].items():
        dense.arrays["gradients"][name] = rows[keep]
    got = result(dense)
    assert got.summary["law_steps"] == 2 * 3
    assert got.summary["law_residual"] < 1e-10
    assert len(got.series["max_abs"].value) == 41


def phases(before, after, steps=4000, turn=1000, noise=0.0, seed=0):
    """Two scalar layers whose |D| shrinks at one rate, and at another from `turn` on."""
    rng = np.random.default_rng(seed)
    at = np.arange(0, steps + 1, 20)
    log = np.where(at < turn, before * at, before * turn + after * (at - turn))
    first = np.sqrt(1 + 3 * np.exp(log + noise * rng.standard_normal(len(at))))
    often = np.arange(steps + 1)
    loss = 0.1 + np.exp(-5.0 * often / turn) + 2e-3 * rng.standard_normal(len(often))
    return Dense(
        steps={"params": at},
        arrays={
            "params": {
                "w1": first.reshape(-1, 1, 1),
                "w2": np.ones((len(at), 1, 1)),
            }
        },
        scalars={"loss": (often, loss), "learning_rate": ([0], [0.1])},
        optimizer={"name": "SGD", "momentum": 0.9, "weight_decay": 1e-4},
        groups={"layers": ["w1", "w2"]},
    )


def test_a_regularisation_phase_is_found_and_said():
    got = result(phases(-1e-5, -1e-3, noise=0.01))
    # (L - L_floor)/(L_0 - L_floor) = exp(-5 k/1000) falls below 1e-2 at k = 921.
    assert got.summary["phase_boundary_step"] == pytest.approx(921, abs=60)
    assert got.summary["decay_rate"] == pytest.approx(-1e-3, rel=0.02)
    assert got.summary["decay_rate_before"] == pytest.approx(-1e-5, abs=2e-5)
    assert got.summary["decay_rate_expected"] == pytest.approx(-2 * 0.1 * 1e-4 / (1 - 0.9))
    low, high = got.summary["decay_rate_interval"]
    assert -1.05e-3 < low < -1e-3 < high < -0.95e-3
    assert got.summary["phase_boundary_range"][0] <= got.summary["phase_boundary_step"]
    assert got.summary["regularisation_phase"] is True
    assert got.salience == 0.8
    assert [f.id for f in got.findings] == ["imbalance.regularisation_phase"]
    assert "Two phases" in got.sentence


@pytest.mark.parametrize(
    ("before", "after"), [(-1e-3, -1e-3), (-1e-3, -2e-4), (0.0, 1e-4), (0.0, -1e-6)]
)
def test_no_regularisation_phase_without_a_faster_fall(before, after):
    got = result(phases(before, after, noise=0.01))
    assert got.summary["phase_boundary_step"] is not None
    assert got.summary["regularisation_phase"] is False
    assert got.findings == []


def test_too_few_snapshots_leave_the_phase_undetermined():
    dense = phases(-1e-5, -1e-3)
    keep = [0, 10, 40, 150, 200]
    dense.steps["params"] = dense.steps["params"][keep]
    for name, rows in dense.arrays["params"].items():
        dense.arrays["params"][name] = rows[keep]
    got = result(dense)
    assert got.summary["phase_boundary_step"] is not None
    assert got.summary["regularisation_phase"] is None
    assert got.summary["decay_rate"] is None


def test_floor_of_the_loss():
    steps = np.arange(1000)
    options = {"fraction": 0.01, "smoothing": 0.02}

    def reached(at, loss):
        return floor_reached(at, loss, **options).step

    fall = np.exp(-steps / 50.0)
    # exp(-k/50) < 1e-2 from k = 231 on.
    assert reached(steps, fall) == pytest.approx(231, abs=2)
    spoiled = fall.copy()
    spoiled[[0, 400]] = np.nan, 9.0  # a NaN at the start and one odd batch
    assert reached(steps, spoiled) == pytest.approx(231, abs=7)
    assert floor_reached(steps, 1 - steps / 1000, **options) is None  # still on its way
    assert floor_reached(steps, 1 + steps / 1000, **options) is None  # rises
    assert floor_reached(steps, np.ones(1000), **options) is None
    again = fall.copy()
    again[600:] = 1.0 * np.exp(-(steps[600:] - 600) / 20.0)  # leaves the floor for a while
    assert reached(steps, again) == pytest.approx(600 + 92, abs=8)
    assert floor_reached(steps[:9], fall[:9], **options) is None
    many = np.arange(300_000)
    assert reached(many, np.exp(-many / 2e4)) == pytest.approx(92_104, abs=90)


@pytest.mark.parametrize("noise", [1e-3, 1e-2])
@pytest.mark.parametrize("seed", range(5))
def test_a_change_point_confirms_the_floor(noise, seed):
    rng = np.random.default_rng(seed)
    steps = np.arange(1000)
    loss = 0.1 + np.exp(-steps / 50.0) + noise * rng.standard_normal(1000)
    got = floor_reached(steps, loss, fraction=0.01, smoothing=0.02)
    assert got.agreed
    # The rule's 231 and where the fall is lost in the noise, 50 ln(1/noise), bracket it.
    assert 231 / 2 < got.low <= got.high < 2 * 50 * np.log(1 / noise)


def test_a_threshold_that_noise_crosses_late_is_undetermined():
    """Noise of twice the threshold: the rule alone names steps long after the fall."""
    steps = np.arange(1000)
    losses = [
        0.1 + np.exp(-steps / 50.0) + 0.02 * np.random.default_rng(seed).standard_normal(1000)
        for seed in range(40)
    ]
    found = [floor_reached(steps, loss, fraction=0.01, smoothing=0.02) for loss in losses]
    late = [k for k, each in enumerate(found) if each is not None and each.step > 2 * 231]
    assert len(late) > 5
    assert not any(found[k].agreed for k in late)
    dense = phases(-1e-5, -1e-3)
    dense.scalars["loss"] = 4 * steps, losses[late[0]]
    said = result(dense)
    assert said.summary["phase_boundary_step"] is None
    assert said.summary["regularisation_phase"] is None
    assert said.summary["decay_rate"] is None
    assert any("undetermined" in note for note in said.notes)


def test_slopes():
    x = np.arange(20.0)
    line = slope(x, 3 - 0.5 * x)
    assert line.value == pytest.approx(-0.5)
    assert line.error < 1e-12
    assert line.interval == pytest.approx([-0.5, -0.5])
    assert slope(x[:4], x[:4]) is None
    noisy = slope(x, np.random.default_rng(0).standard_normal(20))
    assert not is_steeper(noisy, noisy, 0.0)


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_intervals_of_slopes_hold_the_true_one(memory):
    """Also under noise that remembers, where the textbook's error is far too small."""
    rng = np.random.default_rng(11)
    x = np.arange(400.0)
    held, naive = 0, 0
    for _ in range(200):
        noise = rng.standard_normal(500)
        for i in range(1, 500):
            noise[i] += memory * noise[i - 1]
        line = slope(x, 0.01 * x + noise[100:])
        held += line.interval[0] <= 0.01 <= line.interval[1]
        textbook = 1.966 * line.error * np.sqrt((line.windows - 2) / 398)
        naive += abs(line.value - 0.01) <= textbook
    assert held >= 176  # 95 % by name
    assert (naive < 140) == (memory > 0)


def test_a_fall_that_chance_may_have_made_is_undetermined():
    before = slope(np.arange(9.0), np.random.default_rng(1).standard_normal(9))
    after = slope(np.arange(9.0), np.arange(9.0) * -0.15)
    assert is_steeper(after, before, 0.05) is None
    assert is_steeper(before, after, 0.05) is False


@pytest.mark.parametrize(
    ("dense", "names", "joints", "confidence"),
    [
        (
            shapes(fc1_weight=(5, 3), fc1_bias=(5,), fc2_weight=(4, 5), fc3_weight=(2, 4)),
            ("fc1.weight", "fc2.weight", "fc3.weight"),
            [("fc1.weight", "fc2.weight"), ("fc2.weight", "fc3.weight")],
            "unique",
        ),
        (  # input by output, with a square in the middle
            shapes(a_kernel=(3, 5), b_kernel=(5, 5), c_kernel=(5, 5), d_kernel=(5, 2)),
            ("a.kernel", "b.kernel", "c.kernel", "d.kernel"),
            [("d.kernel", "c.kernel"), ("c.kernel", "b.kernel"), ("b.kernel", "a.kernel")],
            "ambiguous",  # b and c may be exchanged
        ),
        (  # a stray matrix before the chain
            shapes(emb_weight=(9, 7), fc1_weight=(5, 3), fc2_weight=(4, 5)),
            ("fc1.weight", "fc2.weight"),
            [("fc1.weight", "fc2.weight")],
            "ambiguous",
        ),
        (  # square matrices fit in either layout
            shapes(a_weight=(4, 4), b_weight=(4, 4)),
            ("a.weight", "b.weight"),
            [("a.weight", "b.weight")],
            "ambiguous",
        ),
        (shapes(a_weight=(5, 3), b_weight=(7, 4)), None, None, None),
        (shapes(a_weight=(5, 3), conv_weight=(4, 5, 3, 3)), None, None, None),
    ],
    ids=["linear", "kernels", "stray", "square", "unrelated", "conv"],
)
def test_layers_are_inferred_from_shapes_that_chain(dense, names, joints, confidence):
    chain = layer_chain(dense.header)
    if names is None:
        assert chain is None
        skipped = Imbalance().needs(dense.header)
        assert isinstance(skipped, Skipped)
        assert "groups['layers']" in skipped.reason
    else:
        assert chain.names == names
        assert not chain.declared
        assert chain.confidence == confidence
        assert [(j.first, j.second) for j in chain.joints] == joints


def test_weights_stored_input_by_output_give_the_same_imbalance():
    dense = linear_network(0.02, 10)
    turned = replace(
        dense,
        arrays={
            s: {k: v.transpose(0, 2, 1) for k, v in named.items()}
            for s, named in dense.arrays.items()
        },
    )
    a, b = result(dense), result(turned)
    assert b.series["frobenius_max"].value == pytest.approx(a.series["frobenius_max"].value)
    assert b.summary["law_residual"] < 1e-10


def test_declared_layers_of_other_shapes_have_norms_only():
    dense = Dense(
        steps={"params": np.arange(3)},
        arrays={
            "params": {
                "conv": np.arange(3.0).reshape(3, 1, 1, 1, 1) * np.ones((3, 2, 1, 2, 2)),
                "fc": np.ones((3, 3, 2)),
            }
        },
        groups={"layers": ["conv", "fc"]},
    )
    got = result(dense)
    assert got.series["max_abs"].value == pytest.approx([6.0, 2.0, 26.0])
    assert got.series["frobenius_max"].value == []
    assert got.summary["pairs_measured"] == 0
    assert any("0 of 1 adjacent pairs" in note for note in got.notes)


def test_the_matrix_work_is_bounded_and_the_costliest_pairs_give_way():
    dense = linear_network(0.02, 50, widths=(3, 30, 4, 2))
    header = dense.header
    chain = layer_chain(header)
    costs = {j.first: j.cost for j in chain.joints}
    assert costs == {"fc1.weight": 30**2 * 7, "fc2.weight": 4**2 * 32}
    both = plan_pairs(header, chain, steps=64, work=1e9, max_width=64)
    assert [n.first for n in both.needs] == ["fc2.weight", "fc1.weight"]
    few = plan_pairs(header, chain, steps=64, work=2 * 10 * sum(costs.values()), max_width=64)
    assert {n.timeline.limit for n in few.needs} == {10}
    assert len(few.needs) == 2
    narrow = plan_pairs(header, chain, steps=64, work=1e9, max_width=8)
    assert [n.first for n in narrow.needs] == ["fc2.weight"]
    assert plan_pairs(header, chain, steps=64, work=10, max_width=64).needs == ()
    assert result(dense, matrix_work=10).status == "ok"


@pytest.mark.parametrize(
    "steps", [np.arange(500), np.r_[0:10, 100:110, 200:400], np.arange(0, 1000, 2)]
)
@pytest.mark.parametrize("limit", [4, 7, 64])
def test_a_limited_timeline_of_pairs_keeps_neighbours_together(steps, limit):
    kept = Timeline(("params",), limit, pairs=True).pick(steps)
    assert len(kept) <= limit
    assert set(kept) <= set(steps)
    assert {kept[0], kept[-1]} == {steps[0], steps[-1]}
    adjacent = int((np.diff(kept) == 1).sum())
    assert adjacent >= (limit - 2) // 2 if (np.diff(steps) == 1).any() else adjacent == 0


def test_per_tensor_values_left_out_are_insufficient_with_a_remedy():
    dense = linear_network(0.02, 3)
    metric = Imbalance()
    full = measure(dense, metric.needs(dense.header))
    lean = Measurements(
        full.header,
        {pair: replace(band, tensors={}) for pair, band in full.bands.items()},
        per_tensor_kept=False,
    )
    got = metric.compute(lean)
    assert got.status == "insufficient"
    assert "--memory" in got.reason


def test_one_snapshot_and_a_tail_of_nan():
    assert result(linear_network(0.02, 0)).status == "insufficient"
    dense = linear_network(0.02, 20)
    for rows in dense.arrays["params"].values():
        rows[15:] = np.nan
    got = result(dense)
    assert got.status == "ok"
    assert got.series["max_abs"].value[15:] == [None] * 6
    assert got.summary["max_abs_last"] == got.series["max_abs"].value[14]
    assert isinstance(Imbalance().needs(Dense({}, {}).header), Skipped)
