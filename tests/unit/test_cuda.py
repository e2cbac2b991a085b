"""The pass on a CUDA device: the same answers as the dense twin's and as the processor's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import trajfile
from tests.recorded import plan_for, recorded
from tests.twin import measure
from tests.unit.test_device import CARD
from tests.unit.test_engine import EVERYTHING, agree, run
from trajfile.engine.device import machine_for
from trajfile.engine.stream import run_pass

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SAMPLES = sorted(
    path
    for path in (Path(__file__).parents[2] / "sample_data").iterdir()
    if path.suffix in {".h5", ".zarr"}
)

#: What remains of numbers that nearly cancel: on the processor, too, it varies with the tiling.
ROUNDING = {"asymmetry", "ritz_error", "ritz"}


@pytest.fixture(scope="module")
def dense():
    return run()


@pytest.fixture(scope="module")
def expected(dense):
    return measure(dense, EVERYTHING)


@pytest.mark.parametrize("width", [262144, 8, 3])
@pytest.mark.parametrize("budget", [2**30, 300_000, 200_000])
def test_every_need_is_what_the_dense_twin_says(dense, expected, width, budget):
    machine = machine_for("cuda")
    container = recorded(dense, width=width)
    plan = plan_for(
        container, EVERYTHING, budget=budget, **{**CARD, "device": machine.profile.device}
    )
    result = run_pass(plan, container, machine)
    tolerance = 1e-11 if plan.precision == "float64" else 1e-5
    agree(result.measurements, expected, tolerance)
    assert result.bytes_read == container.bytes_read == plan.bytes_to_read
    assert result.peak_bytes <= plan.peak_bytes <= budget


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_sample_gets_the_report_that_the_processor_gives(path):
    """Whatever the card: words alike, numbers to the rounding of float32 at worst."""
    here = trajfile.analyze(path, device="cpu").to_dict()
    there = trajfile.analyze(path, device="cuda").to_dict()
    assert there["run"]["device"].startswith("cuda:0 (")
    single = "float32" in there["run"]["device"]
    for metric, found in here["metrics"].items():
        other = there["metrics"][metric]
        assert other["status"] == found["status"]
        assert [f["id"] for f in other["findings"]] == [f["id"] for f in found["findings"]]
        for name, series in found["series"].items():
            assert other["series"][name]["step"] == series["step"]
            a, b = (
                np.array([np.nan if v is None else v for v in s["value"]], np.float64)
                for s in (series, other["series"][name])
            )
            scale = np.nanmax(np.abs(a), initial=0.0)
            close, least = (1e-5 if single else 1e-8), 1e-9
            if name in ROUNDING:
                close = least = 1e-2
            np.testing.assert_allclose(
                b, a, rtol=close, atol=least * scale, err_msg=f"{metric}: {name}"
            )
        words = {k: v for k, v in found["summary"].items() if isinstance(v, (str, bool))}
        assert json.loads(json.dumps({k: other["summary"][k] for k in words})) == words


def test_a_card_with_too_little_memory_is_one_clear_error(dense):
    machine = machine_for("cuda")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    container = recorded(dense)
    plan = plan_for(
        container, EVERYTHING, budget=2**30, **{**CARD, "device": machine.profile.device}
    )
    torch.cuda.set_per_process_memory_fraction(1.0 * 2**16 / total)
    try:
        with pytest.raises(trajfile.ResourceError, match="--memory"):
            run_pass(plan, container, machine)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
