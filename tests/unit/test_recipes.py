"""The recipes of spec/format.md, run verbatim; and its tables against the code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.contract.runs import random_rows, stream
from trajfile.containers import create
from trajfile.containers.base import Commit, Rows
from trajfile.containers.record import crc32c
from trajfile.dtypes import ITEM_SIZES
from trajfile.schema import ABSENT_BITS, Manifest

FORMAT = (Path(__file__).parents[2] / "spec" / "format.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"^```python\n(.*?)^```", FORMAT, re.DOTALL | re.MULTILINE)

BEFORE = (("fc1.bias", (3,), "float32"), ("low", (2,), "bfloat16"))
AFTER = (*BEFORE, ("fc1.weight", (2, 4), "float32", 3))


@pytest.mark.parametrize("recipe", RECIPES, ids=["h5py", "zarr"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_recipe_reads_a_tensor_without_us(
    recipe: str, compression: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(recipe.strip().splitlines()) == 10
    other = stream("gradients", ("fc1.bias", (3,), "float32"))
    manifests = [Manifest((other, stream("params", *tensors))) for tensors in (BEFORE, AFTER)]
    rng = np.random.default_rng(5)
    weights = rng.standard_normal((4, 2, 4)).astype(np.float32)
    name = "run.h5" if "h5py" in recipe else "run.zarr"
    container = create(tmp_path / name, manifests[0], compression=compression)
    for row in range(7):
        spec = manifests[row >= 3].by_name["params"]
        lanes = dict(random_rows(spec, rng).lanes)
        if row >= 3:
            lanes["float32"][0, 3:] = weights[row - 3].ravel()
        joined = manifests[1] if row == 3 else None
        container.append(Commit(5 * row, {"params": Rows(lanes)}, {}, joined))
    container.close()

    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(recipe, names)
    np.testing.assert_array_equal(names["tensor"], weights, strict=True)
    assert names["steps"].tolist() == [15, 20, 25, 30]
    if hasattr(names["root"], "close"):
        names["root"].close()


def test_the_dtypes_are_those_of_the_code() -> None:
    section = FORMAT.split("## 6. Dtypes")[1].split("## 7.")[0]
    named: dict[str, str] = {}
    for cells in re.findall(r"^\| (`.*?) \| (.*?) \|", section, re.MULTILINE):
        names = re.findall(r"`(\w+)`", cells[0])
        sizes = re.findall(r"\d+", cells[1])
        named.update(zip(names, sizes if len(sizes) > 1 else sizes * len(names), strict=True))
    assert {name: int(size) for name, size in named.items()} == ITEM_SIZES


def test_the_constants_are_those_of_the_code() -> None:
    assert f"0x{ABSENT_BITS:016X}" in FORMAT
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0
