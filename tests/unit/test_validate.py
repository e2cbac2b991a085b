"""Each rule is broken on purpose, once, and is found under its id and no other."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

import trajfile
from tests.unit.in_memory import record
from tests.unit.runs import theta
from trajfile.containers import create
from trajfile.containers.base import Commit, Rows
from trajfile.containers.memory import MemoryContainer
from trajfile.dtypes import EXTENDED, numpy_dtype
from trajfile.rules import CHECKPOINT_RULES, RULES
from trajfile.schema import Manifest, StreamSpec, TensorSpec
from trajfile.validate import check

W = TensorSpec("w", (2,), "float32", 0)
STATED = {"optimizer": {"lr": 0.1}, "gradient": {"stage": "raw", "source": "full_batch"}}


def row(*values: float) -> Rows:
    return Rows({"float32": np.array([values or (1, 2)], np.float32)})


def samples(*index: int) -> Rows:
    return Rows({"float32": np.ones((len(index), 2), np.float32)}, np.array(index, np.int32))


def held(
    commits: list[Commit],
    streams: dict[str, tuple[TensorSpec, ...]] | None = None,
    **stated: object,
) -> MemoryContainer:
    """A container filled past the writer, which would refuse most of this."""
    tables = {"params": (W,)} if streams is None else streams
    specs = tuple(StreamSpec(name, tensors) for name, tensors in tables.items())
    container = MemoryContainer(Manifest(streams=specs, **{**STATED, **stated}))
    for commit in commits:
        container.append(commit)
    return container


def found(container: MemoryContainer, *, deep: bool = False) -> list[str]:
    return [finding.id for finding in check(container, deep=deep)]


def at(*steps: int) -> list[Commit]:
    return [Commit(step, {"params": row()}) for step in steps]


def test_a_sound_run_has_no_findings():
    container = record(
        [
            (k, {"params": theta(k), "gradients": theta(k)}, {"learning_rate": 0.1})
            for k in range(4)
        ],
        gradient={"stage": "raw", "source": "mini_batch"},
        groups={"layers": ("w",)},
    )
    assert check(container, deep=True) == []


@pytest.mark.parametrize(
    ("container", "rules", "location", "says"),
    [
        (lambda: held([]), ["USE-001"], "/commits", "nothing"),
        (lambda: held(at(5, 3)), ["COM-003", "STR-008"], "/commits", "step 3, after step 5"),
        (lambda: held(at(3, 3)), ["STR-008"], "/streams/params/step", "row 1 has step 3"),
        (
            lambda: held(
                [Commit(0, {"gradient_samples": samples(0, 2)})], {"gradient_samples": (W,)}
            ),
            *(["STR-008"], "/streams/gradient_samples/step", "row 1 is sample 2 of step 0"),
        ),
        (
            lambda: held([Commit(0, {"gradient_samples": samples(1)})], {"gradient_samples": (W,)}),
            *(["STR-008"], "/streams/gradient_samples/step", "row 0 is sample 1"),
        ),
        (
            lambda: held(
                [Commit(0, scalars={"a": 1.0}), Commit(0, scalars={"a": 1.0})], scalars=("a",)
            ),
            *(["COM-005"], "/scalars/step", "row 1 has step 0"),
        ),
        (
            lambda: held(at(0), groups={"layers": ("w", "v")}),
            *(["USE-007"], "/manifest", "'layers' names 'v'"),
        ),
        (
            lambda: held(at(0), {"params": (W,), "updates": (TensorSpec("v", (1,), "int8", 0),)}),
            *(["STR-009"], "/streams/updates", "holds 'v', which params does not"),
        ),
        (
            lambda: held(at(0), {"params": (W,), "updates": (TensorSpec("w", (3,), "int8", 0),)}),
            *(["STR-009"], "/streams/updates", r"shape \(3,\), expected \(2,\)"),
        ),
        (
            lambda: held(at(0), optimizer={"lr": 0.1, "momentum": "high"}),
            *(["CORE-014"], "/manifest", "momentum"),
        ),
        (lambda: held(at(0), gradient={"stage": "cooked"}), ["CORE-015"], "/manifest", "cooked"),
        (
            lambda: held(at(0), {"params": (W,), "gradients": (W,)}, gradient={"stage": "raw"}),
            *(["USE-002"], "/manifest", "without stating their source"),
        ),
        (lambda: held(at(0), optimizer={}), ["USE-003"], "/scalars/value", "no learning rate"),
        (
            lambda: held([Commit(4, scalars={"learning_rate": -0.1})], scalars=("learning_rate",)),
            *(["USE-004"], "/scalars/value", "-0.1 at step 4"),
        ),
        (
            lambda: held(
                [Commit(k, scalars={"loss": math.nan if k > 1 else 0.5}) for k in range(5)],
                scalars=("loss",),
            ),
            *(["USE-005"], "/scalars/value", "'loss' is not finite at 3 steps, first at step 2"),
        ),
    ],
)
def test_each_rule_is_found_where_it_is_broken(container, rules, location, says):
    findings = check(container(), deep=True)
    assert [finding.id for finding in findings] == rules
    assert findings[0].severity == RULES[rules[0]].severity
    assert findings[0].evidence["location"] == location
    assert re.search(says, findings[0].message)


def test_a_row_at_a_step_of_no_commit():
    container = held(at(0, 1, 2))
    container._commits[1] = (1, 0, 1)  # the only way: appending writes both
    assert found(container) == ["COM-004"]


def test_a_gap_in_the_numbers_of_commits():
    container = held(at(0, 1, 2))
    container._commits[1] = (5, 1, 1)
    assert found(container) == ["COM-003"]


def test_a_learning_rate_that_warms_up_from_zero_is_no_finding():
    commits = [Commit(k, {"params": row()}, {"learning_rate": 0.1 * k}) for k in range(3)]
    assert found(held(commits, scalars=("learning_rate",), optimizer={})) == []


def test_values_that_are_not_finite_are_found_by_reading_all():
    values = [(1, 2), (3, math.nan), (math.inf, 4), (5, 6)]
    commits = [Commit(10 * k, {"params": row(*pair)}) for k, pair in enumerate(values)]
    tensors = (TensorSpec("a", (), "float32", 0), TensorSpec("b", (), "float32", 1))
    container = held(commits, {"params": tensors})
    assert found(container) == []
    (finding,) = check(container, deep=True)
    assert (finding.id, finding.severity) == ("USE-006", "warn")
    assert finding.evidence == {
        "location": "/streams/params",
        "step": 10,
        "tensor": "b",
        "rows": 2,
    }


@pytest.mark.parametrize("name", [n for n in EXTENDED if not n.startswith(("int", "uint"))])
def test_every_float_dtype_is_looked_through(name):
    spec = StreamSpec("params", (TensorSpec("w", (1,), name, 0),))
    container = MemoryContainer(Manifest(streams=(spec,), **STATED))
    container.append(Commit(0, {"params": Rows({name: np.ones((1, 1), numpy_dtype(name))})}))
    assert found(container, deep=True) == []


def test_a_deep_check_reads_every_byte_once():
    container = record([(k, {"params": theta(k)}, {"lr": 1.0}) for k in range(5)], **STATED)
    check(container)
    assert container.bytes_read == 0
    check(container, deep=True)
    assert container.bytes_read == 5 * (12 * 4 + 4 + 3 * 8)


@pytest.fixture(params=[".h5", ".zarr"])
def path(request, tmp_path):
    path = tmp_path / f"run{request.param}"
    with trajfile.Writer(path, optimizer={"lr": 0.1}) as writer:
        for step in range(6):
            writer.append(step, params={"w": np.full(1000, 3.25 + step, np.float32)})
    return path


def test_a_file_on_disk_is_valid(path):
    assert trajfile.validate(path) == []
    assert trajfile.validate(str(path), deep=True) == []


def flip(path: Path, step: int) -> None:
    """Change one byte of the row recorded at a step."""
    row = np.full(1000, 3.25 + step, np.float32).tobytes()
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    for file in files:
        data = bytearray(file.read_bytes())
        place = data.find(row)
        if place >= 0:
            data[place + 1234] ^= 1
            file.write_bytes(data)
            return
    raise AssertionError("the row is not on disk as it is in memory")


def test_a_damaged_row_is_found_and_the_others_still_read(path):
    flip(path, 2)
    flip(path, 4)
    assert trajfile.validate(path) == []
    findings = trajfile.validate(path, deep=True)
    assert [(f.id, f.severity) for f in findings] == [("SUM-003", "error")] * 2
    assert all("params" in f.evidence["location"] for f in findings)


def test_a_scalar_that_was_changed_is_found_without_reading_rows(tmp_path):
    path = tmp_path / "run.zarr"
    with trajfile.Writer(path, optimizer={"lr": 0.1}) as writer:
        writer.append(0, params=theta(0), scalars={"loss": 1234.5678})
    bits = np.float64(1234.5678).tobytes()
    (file,) = [p for p in path.rglob("*") if p.is_file() and bits in p.read_bytes()]
    file.write_bytes(file.read_bytes().replace(bits, np.float64(1.0).tobytes()))
    assert {f.severity for f in trajfile.validate(path)} == {"error"}


def test_what_cannot_be_opened_is_a_finding_but_nothing_is_not(tmp_path):
    with pytest.raises(trajfile.NotATrajectory, match="no such file"):
        trajfile.validate(tmp_path / "nothing.h5")
    text = tmp_path / "text.h5"
    text.write_text("hello")
    (finding,) = trajfile.validate(text)
    assert (finding.id, finding.severity) == ("CORE-002", "error")
    assert "not an HDF5 file" in finding.message


def test_a_trajectory_without_a_commit_is_said_to_be_empty(tmp_path):
    create(tmp_path / "run.h5", Manifest()).close()
    assert [f.id for f in trajfile.validate(tmp_path / "run.h5")] == ["USE-001"]


def test_every_rule_id_in_the_sources_is_in_the_table():
    root = Path(trajfile.__file__).parent
    used = {
        rule
        for source in root.rglob("*.py")
        if source.name != "rules.py"
        for rule in re.findall(r'"([A-Z0-9]+-\d{3})"', source.read_text())
    }
    known = RULES | CHECKPOINT_RULES
    assert used <= set(known)
    assert {rule for rule in RULES if rule >= "COM-003"} | set(CHECKPOINT_RULES) <= used
    assert all(rule == entry.id and entry.text.endswith(".") for rule, entry in known.items())
