import math

import pytest
from trajfile_cli.render.text import (
    THIN,
    clean,
    count,
    counted,
    number,
    percent,
    seconds,
    shorten,
    size,
    steps_between,
)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain name.weight", "plain name.weight"),
        ("[bold]x[/bold]", "[bold]x[/bold]"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x9b2J", r"\x9b2J"),
        ("abc\u202egnp", r"abc\u202egnp"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("lone \udcff", r"lone \udcff"),
        ("θ‖é 漢", "θ‖é 漢"),
        (("a", 1), "('a', 1)"),
    ],
)
def test_what_acts_on_a_terminal_is_spelled_out(raw, shown):
    assert clean(raw) == shown


def test_every_control_character_is_made_visible():
    for code in [*range(32), 127, *range(128, 160)]:
        assert clean(f"a{chr(code)}b").isprintable()
        assert len(clean(chr(code))) > 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (0.0, "0"),
        (3, "3"),
        (9999, "9999"),
        (10000, f"10{THIN}000"),
        (-1234567, f"-1{THIN}234{THIN}567"),
        (1.3333333, "1.33"),
        (0.012345, "0.0123"),
        (-0.5, "-0.5"),
        (123.456, "123"),
        (1234.5, "1234"),
        (9999.9, "10000"),
        (12345.6, "1.23e4"),
        (1e-4, "1e-4"),
        (0.00012345, "1.23e-4"),
        (1.999e-7, "2e-7"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        ("chaotic_equilibrium", "chaotic equilibrium"),
    ],
)
def test_numbers_in_three_or_four_digits(value, shown):
    assert number(value) == shown


def test_rounded_numbers_stay_within_half_a_unit_of_the_third_digit():
    for exponent in range(-12, 13):
        for mantissa in (1.0, 1.005, 2.71828, 9.994, 9.996):
            value = mantissa * 10.0**exponent
            assert float(number(value).replace(THIN, "")) == pytest.approx(value, rel=5.1e-3)


def test_other_quantities():
    assert counted(1, "tensor") == "1 tensor"
    assert counted(12000, "row") == f"12{THIN}000 rows"
    assert count(0) == "0"
    assert percent(0.034) == "3.4%"
    assert percent(0.816) == "82%"
    assert percent(0.0) == "0%"
    assert percent(1e-12) == "<0.01%"
    assert [size(n) for n in (0, 1023, 1024, 3 * 2**20, 5 * 2**40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "3.0 MiB",
        "5.0 TiB",
    ]
    assert seconds(0.314) == "0.31 s"
    assert seconds(200.0) == "3 min 20 s"
    assert steps_between(0, 4000) == "0–4000"
    assert steps_between(7, 7) == "7"
    assert steps_between(None, None) == "none"


def test_shortening_keeps_both_ends():
    assert shorten("encoder.layers.11.weight", 12) == "encode…eight"
    assert all(len(shorten("x" * 50, width)) == width for width in range(3, 50))
    assert shorten("short", 5) == "short"
