import math

from trajfile_cli.render.spark import BLOCKS, sparkline


def test_a_ramp_uses_every_height_once():
    assert sparkline([float(k) for k in range(8)], 8) == (BLOCKS, False)


def test_decades_are_drawn_on_a_logarithmic_scale():
    drawn, log = sparkline([10.0**k for k in range(8)], 8)
    assert log
    assert drawn == BLOCKS
    assert not sparkline([0.0, *(10.0**k for k in range(8))], 8)[1]  # zero has no logarithm


def test_undefined_values_leave_blanks_and_never_count():
    drawn, _ = sparkline([None, 1.0, math.nan, 2.0, math.inf, 3.0], 6)
    assert [char == " " for char in drawn] == [True, False, True, False, True, False]
    assert drawn[1] == BLOCKS[0]
    assert drawn[5] == BLOCKS[-1]
    assert sparkline([None, None], 10) == ("", False)
    assert sparkline([], 10) == ("", False)


def test_a_single_spike_survives_any_length():
    values = [0.0] * 10_000
    values[6_200] = 1.0
    drawn, _ = sparkline(values, 20)
    assert drawn.count(BLOCKS[-1]) == 1
    assert drawn.index(BLOCKS[-1]) == 6_200 * 20 // 10_000


def test_a_trend_with_small_noise_is_drawn_as_the_trend():
    values = [k / 100 + (0.3 if k % 2 else -0.3) for k in range(1000)]
    drawn, _ = sparkline(values, 10)
    assert list(drawn) == sorted(drawn)


def test_rounding_noise_is_flat():
    drawn, _ = sparkline([1.0, 1.0 + 1e-12, 1.0 - 1e-12], 3)
    assert len(set(drawn)) == 1


def test_never_wider_than_asked_nor_than_the_series():
    assert len(sparkline([float(k) for k in range(1000)], 24)[0]) == 24
    assert len(sparkline([1.0, 2.0, 3.0], 24)[0]) == 3
