"""What a pass does on a device, done in the processor's memory: the answers of the dense twin.

Streams, events and pinned memory apart, a card is asked for these very operations.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.operations import CountingMachine
from tests.recorded import plan_for, recorded
from tests.twin import measure
from tests.unit.test_engine import EVERYTHING, agree, run
from trajfile.engine.stream import run_pass

CARD = {"workers": 1, "slots": 4, "device": "cuda:0"}


def passed(dense, needs, first_rows=None, **options):
    """One pass on a device; what it brought, its plan and the machine."""
    container = recorded(dense, first_rows, options.pop("width", 262144))
    plan = plan_for(container, needs, **{**CARD, **options})
    machine = CountingMachine(plan.profile)
    result = run_pass(plan, container, machine)
    assert result.bytes_read == container.bytes_read == plan.bytes_to_read
    assert result.peak_bytes <= plan.peak_bytes <= plan.budget
    return result, plan, machine


@pytest.fixture(scope="module")
def dense():
    return run()


@pytest.fixture(scope="module")
def expected(dense):
    return measure(dense, EVERYTHING)


@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("width", [262144, 8, 3])
@pytest.mark.parametrize("budget", [2**30, 300_000, 200_000])
def test_every_need_is_what_the_dense_twin_says(dense, expected, width, budget, lanes):
    result, plan, _ = passed(dense, EVERYTHING, width=width, budget=budget, lanes=lanes)
    agree(result.measurements, expected)
