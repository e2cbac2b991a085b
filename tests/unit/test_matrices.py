"""The matrix imbalance of layers: closed forms, collection from tiles, and memory."""

import numpy as np
import pytest
import torch

from tests.recorded import measured, recorded
from tests.twin import Dense
from trajfile.engine.matrices import Collector, affordable_layers, layer_bytes
from trajfile.engine.needs import Inner, LayerLaw, LayerPair, Row, Timeline

P = Timeline(("params",))
PG = Timeline(("params", "gradients"))
NAN = float("nan")


def test_the_imbalance_of_two_known_matrices():
    # W_1 = (3, 4)' and W_2 = (1, 2): D = W_2' W_2 - W_1 W_1' = [[1-9, 2-12], [2-12, 4-16]].
    first = np.array([[[3.0], [4.0]]])
    second = np.array([[[1.0, 2.0]]])
    dense = Dense({"params": np.arange(1)}, {"params": {"w1": first, "w2": second}})
    need = LayerPair("w1", "w2", P)
    found = measured(recorded(dense), [need]).measurements.layer_balances[need]
    assert found.trace == pytest.approx([1 + 4 - 9 - 16])
    assert found.diagonal_max == pytest.approx([12])
    assert found.frobenius == pytest.approx([np.sqrt(8**2 + 2 * 10**2 + 12**2)])
    assert np.isnan(found.law_residual).all()


def plain_descent(rate=0.1, decay=0.01, rows=6):
    """SGD with coupled decay on random gradients, in float64: the law holds to rounding."""
    generator = np.random.default_rng(0)
    theta = {"w1": generator.standard_normal((5, 3)), "w2": generator.standard_normal((4, 5))}
    params, gradients = [], []
    for _ in range(rows):
        gradient = {name: generator.standard_normal(w.shape) for name, w in theta.items()}
        # The law needs W_1 G_1' = G_2' W_2, as of a loss of W_2 W_1: project G_1 on it.
        gradient["w1"] = theta["w2"].T @ (chain := generator.standard_normal((4, 3)))
        gradient["w2"] = chain @ theta["w1"].T
        params.append(theta)
        gradients.append(gradient)
        theta = {n: (1 - rate * decay) * w - rate * gradient[n] for n, w in theta.items()}
    steps = np.arange(rows)

    def stacked(several):
        return {name: np.stack([one[name] for one in several]) for name in ("w1", "w2")}

    return Dense(
        {"params": steps, "gradients": steps},
        {"params": stacked(params), "gradients": stacked(gradients)},
    )


def test_the_law_of_plain_descent_leaves_no_residual():
    rate, decay, rows = 0.1, 0.01, 6
    keep = ((1 - rate * decay) ** 2,) * (rows - 2) + (NAN, NAN)
    need = LayerPair("w1", "w2", PG, LayerLaw(keep, (rate**2,) * rows))
    dense = plain_descent(rate, decay, rows)
    found = measured(recorded(dense, width=7), [need], budget=20_000).measurements
    balance = found.layer_balances[need]
    assert balance.law_residual[:4] == pytest.approx(0, abs=1e-12)
    assert (balance.law_change[:4] > 1e-3).all()
    assert np.isnan(balance.law_residual[4:]).all()
    wrong = LayerPair("w1", "w2", PG, LayerLaw(keep, (2 * rate**2,) * rows))
    found = measured(recorded(dense), [wrong]).measurements
    assert (found.layer_balances[wrong].law_residual[:4] > 1e-3).all()


def test_steps_before_a_matrix_joined_say_nothing():
    dense = plain_descent()
    need = LayerPair("w1", "w2", PG, LayerLaw((1.0,) * 6, (0.0,) * 6))
    first = {"params": {"w2": 2}, "gradients": {"w2": 3}}
    found = measured(recorded(dense, first), [need]).measurements.layer_balances[need]
    assert np.isnan(found.frobenius).tolist() == [True, True, False, False, False, False]
    assert np.isnan(found.law_residual).tolist() == [True, True, True, False, False, True]


def test_what_is_not_finite_stays_visible():
    dense = plain_descent()
    dense.arrays["params"]["w1"][3, 0, 0] = np.nan
    need = LayerPair("w1", "w2", P)
    found = measured(recorded(dense), [need]).measurements.layer_balances[need]
    for values in (found.frobenius, found.diagonal_max, found.trace):
        assert np.isnan(values).tolist() == [False, False, False, True, False, False]


def test_matrices_that_other_needs_read_too_are_read_once():
    dense = plain_descent()
    container = recorded(dense, width=4)
    value = Row("params", P)
    result = measured(container, [LayerPair("w1", "w2", P), Inner(value, value)])
    assert result.bytes_read == container.bytes_read == 6 * (15 + 20) * 8


def test_a_tensor_is_collected_piece_by_piece_at_the_wanted_rows():
    dense = plain_descent(rows=9)
    need = LayerPair("w1", "w2", Timeline(("params",), limit=3))
    collector = Collector(dense.header, [need])
    assert collector.nbytes == 3 * (15 + 20) * 8
    assert not collector.wants("gradients", "w1")
    flat = dense.arrays["params"]["w1"].reshape(9, 15)
    for positions, slots in ((np.array([3, 0, 4, 1, 2]), 6), (np.arange(5, 9), 4)):
        where = np.random.default_rng(0).permutation(slots)[: len(positions)]
        for start, stop in ((0, 4), (4, 15)):
            held = np.full((slots, stop - start), np.nan)
            held[where] = flat[positions, start:stop]
            collector.gather("params", "w1", start, positions, where, held)
    for positions in ([0, 4, 8], [4], [8, 0]):
        found = collector.matrices("params", "w1", np.array(positions))
        np.testing.assert_array_equal(found, flat[positions])


def test_shared_tensors_count_once_and_the_dearest_pair_is_refused_first():
    shapes = {"w1": (8, 4), "w2": (8, 8), "w3": (2, 8)}
    dense = Dense(
        {"params": np.arange(4)}, {"params": {n: np.zeros((4, *s)) for n, s in shapes.items()}}
    )
    pairs = [LayerPair("w1", "w2", P), LayerPair("w2", "w3", P)]
    both = layer_bytes(dense.header, pairs)
    assert both < sum(layer_bytes(dense.header, [pair]) for pair in pairs)
    kept, refused = affordable_layers(dense.header, pairs, both)
    assert set(kept) == set(pairs)
    assert refused == {}
    kept, refused = affordable_layers(dense.header, pairs, both - 1)
    assert kept == [pairs[1]]
    assert list(refused) == [pairs[0]]


def test_the_kernel_does_not_change_what_was_recorded():
    dense = plain_descent()
    container = recorded(dense)
    before = dense.arrays["params"]["w1"].copy()
    threads = torch.get_num_threads()
    measured(container, [LayerPair("w1", "w2", P)])
    np.testing.assert_array_equal(dense.arrays["params"]["w1"], before)
    assert torch.get_num_threads() == threads
