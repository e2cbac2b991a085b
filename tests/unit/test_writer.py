"""What is appended is what is read, what cannot be recorded leaves no trace."""

from __future__ import annotations

import doctest
import math

import ml_dtypes
import numpy as np
import pytest
import torch

import trajfile
from tests.unit.runs import theta
from trajfile.containers.digest import digest
from trajfile.dtypes import EXTENDED, ITEM_SIZES, bits_of, numpy_dtype
from trajfile.schema import NOT_YET, OPTIMIZER_SLOTS

SUFFIXES = [".h5", ".zarr"]


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"run{request.param}"


@pytest.fixture
def h5(tmp_path):
    return tmp_path / "run.h5"


def test_streams_keep_their_own_cadence(path):
    with trajfile.Writer(path, metadata={"seed": 3}) as writer:
        for step in range(0, 12, 2):
            writer.append(
                step,
                params=theta(step) if step % 4 == 0 else None,
                gradients=theta(100 + step),
                updates=theta(200) if step == 0 else None,
                gradient_samples={"w": np.stack([theta(300 + i)["w"] for i in range(2 + step)])}
                if step in {0, 6}
                else None,
                scalars={"loss": 1 / (1 + step), "learning_rate": 0.1 if step == 0 else None},
            )
    with trajfile.open(path) as run:
        assert run.streams == ("params", "gradients", "updates", "gradient_samples")
        assert run.steps("params").tolist() == [0, 4, 8]
        assert run.steps("gradients").tolist() == [0, 2, 4, 6, 8, 10]
        assert run.steps("updates").tolist() == [0]
        assert run.steps("gradient_samples").tolist() == [0] * 2 + [6] * 8
        assert run["gradient_samples"]["w"].samples.tolist() == [0, 1, *range(8)]
        for row, step in enumerate([0, 4, 8]):
            for name, value in theta(step).items():
                read = run["params"][name][row]
                assert read.dtype == np.asarray(value).dtype
                np.testing.assert_array_equal(read, value)
        np.testing.assert_array_equal(run["gradients"]["b"][4], theta(108)["b"])
        samples = run["gradient_samples"]["w"].at(6)
        np.testing.assert_array_equal(samples, np.stack([theta(300 + i)["w"] for i in range(8)]))
        steps, values = run.scalars["loss"]
        np.testing.assert_array_equal(steps, range(0, 12, 2))
        np.testing.assert_array_equal(values, 1 / (1 + steps))
        assert run.scalars["learning_rate"][0].tolist() == [0]
        assert run.manifest.metadata == {"seed": 3}
        assert run.manifest.software == f"trajfile {trajfile.__version__}"


@pytest.mark.parametrize("name", ITEM_SIZES)
def test_every_dtype_comes_back_bit_for_bit(name, path):
    size = ITEM_SIZES[name]
    raw = np.random.default_rng(1).integers(0, 256, 30 * size, np.uint8)
    given = raw.view(f"<u{size}").view(numpy_dtype(name)).reshape(5, 6)
    with trajfile.Writer(path) as writer:
        writer.append(0, params={"t": given.T, "one": given[0, 0]})
    with trajfile.open(path) as run:
        read = run["params"]["t"][0]
        assert read.dtype == given.dtype
        np.testing.assert_array_equal(bits_of(read), bits_of(np.ascontiguousarray(given.T)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_low_precision_tensors_of_torch_come_back_as_ml_dtypes(dtype, path):
    given = torch.linspace(-4, 4, 12).reshape(3, 4).to(dtype)
    with trajfile.Writer(path) as writer:
        writer.append(0, params={"w": given.t()})
    with trajfile.open(path) as run:
        read = run["params"]["w"][0]
    assert read.dtype.name == str(dtype).removeprefix("torch.")
    np.testing.assert_array_equal(read.astype(np.float32), given.t().to(torch.float32).numpy())


def test_a_module_is_recorded_without_ceremony(h5):
    model = torch.nn.Linear(3, 2)
    with trajfile.Writer(h5) as writer:
        writer.append(0, params=dict(model.named_parameters()), scalars={"loss": torch.tensor(0.5)})
    with trajfile.open(h5) as run:
        np.testing.assert_array_equal(run["params"]["weight"][0], model.weight.detach().numpy())
        assert run.scalars["loss"][1].tolist() == [0.5]


@pytest.mark.parametrize("name", OPTIMIZER_SLOTS)
def test_a_known_optimizer_declares_its_slots_like_the_params(name, h5):
    with trajfile.Writer(h5, optimizer={"name": name, "momentum": 0.9}) as writer:
        writer.append(0, params=theta(0))
        slot = OPTIMIZER_SLOTS[name][-1]
        writer.append(3, optimizer={slot: theta(3)})
    with trajfile.open(h5) as run:
        assert run.streams == ("params", *(f"optimizer/{s}" for s in OPTIMIZER_SLOTS[name]))
        np.testing.assert_array_equal(run[f"optimizer/{slot}"]["w"].at(3), theta(3)["w"])


def test_sgd_without_momentum_keeps_no_slot(h5):
    with trajfile.Writer(h5, optimizer={"name": "SGD", "momentum": 0.0}) as writer:
        writer.append(0, params=theta(0))
    with trajfile.open(h5) as run:
        assert run.streams == ("params",)


def test_a_slot_may_lack_frozen_tensors_until_they_have_state(path):
    with trajfile.Writer(path, optimizer={"name": "AdamW"}) as writer:
        for step in range(6):
            moving = {k: v for k, v in theta(step).items() if k != "w" or step >= 4}
            state = {"exp_avg": moving} if step else {"exp_avg": {}}
            writer.append(step, params=theta(step), optimizer=state)
    with trajfile.open(path) as run:
        slot = run["optimizer/exp_avg"]
        assert run.steps("optimizer/exp_avg").tolist() == [1, 2, 3, 4, 5]
        assert slot["w"].steps.tolist() == [4, 5]
        for name in ("w", "b", "s"):
            for step in slot[name].steps:
                np.testing.assert_array_equal(slot[name].at(step), theta(step)[name])
        assert run["optimizer/exp_avg_sq"]["w"].spec.first_row == NOT_YET
        assert len(run["optimizer/exp_avg_sq"]["w"]) == 0
    assert [f for f in trajfile.validate(path, deep=True) if f.severity == "error"] == []


def test_a_stream_that_starts_later_is_declared_by_arrays_or_by_name(path):
    with trajfile.Writer(path) as writer:
        writer.declare("gradients", like=theta(0))
        writer.declare("updates", like="gradients")
        writer.declare("optimizer/shampoo", like={"w": np.zeros(2, np.float16)})
        writer.append(0, params=theta(0))
        writer.append(1, gradients=theta(1), updates=theta(2))
        writer.append(2, optimizer={"shampoo": {"w": np.ones(2, np.float16)}})
    with trajfile.open(path) as run:
        assert run.steps("gradients").tolist() == run.steps("updates").tolist() == [1]
        np.testing.assert_array_equal(run["updates"]["b"][0], theta(2)["b"])
        np.testing.assert_array_equal(run["optimizer/shampoo"]["w"][0], [1, 1])


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_dtype_without_elements_at_first_may_have_many_later(path, compression):
    with trajfile.Writer(path, compression=compression) as writer:
        for step in range(3):
            late = {"late": np.zeros(300_000, np.float16)} if step else {}
            empty = {"empty": np.zeros(0, np.float16)}
            given = theta(step) | empty | late
            writer.append(step, params=given, scalars={"learning_rate": 0.1})
    assert not trajfile.validate(path, deep=True)
    with trajfile.open(path) as run:
        assert run["params"]["late"][:].shape == (2, 300_000)
        assert not run["params"]["late"][:].any()


def test_tensors_and_scalars_join_later(path):
    with trajfile.Writer(path) as writer:
        writer.append(0, params=theta(0), scalars={"loss": 1.0})
        writer.append(1, params={**theta(1), "new": np.full(5, 1.0)})
        writer.append(2, params={**theta(2), "new": np.full(5, 2.0)}, scalars={"accuracy": 0.5})
    with trajfile.open(path) as run:
        new = run["params"]["new"]
        assert new.spec.first_row == 1
        assert new.steps.tolist() == [1, 2]
        np.testing.assert_array_equal(new[:], np.outer([1.0, 2.0], np.ones(5)))
        np.testing.assert_array_equal(run["params"]["w"][2], theta(2)["w"])
        assert run.scalars["loss"][0].tolist() == [0]
        assert run.scalars["accuracy"][0].tolist() == [2]


def test_a_recorded_nan_is_told_from_an_absent_value(path):
    with trajfile.Writer(path) as writer:
        writer.append(0, scalars={"loss": math.nan, "other": 1})
        writer.append(1, scalars={"loss": None, "other": 2})
        writer.append(2, scalars={"loss": math.inf, "other": 3})
    with trajfile.open(path) as run:
        steps, values = run.scalars["loss"]
        assert steps.tolist() == [0, 2]
        np.testing.assert_array_equal(values, [math.nan, math.inf])


def test_nothing_to_record_is_no_commit(h5):
    with trajfile.Writer(h5) as writer:
        writer.append(0, params={}, scalars={"loss": None})
        assert not h5.exists()
        writer.append(1, params=theta(1))
        writer.append(2, optimizer={"exp_avg": {}})
    with trajfile.open(h5) as run:
        assert run.container.commits()[:, 1].tolist() == [1]


def test_what_is_stated_is_kept_exactly(path):
    optimizer = {"name": "AdamW", "betas": (0.9, 0.999), "weight_decay": np.float32(0.5)}
    metadata = {"seed": np.int64(2**62), "note": "α\u2028\n", "tree": [None, True, {"x": -0.1}]}
    with trajfile.Writer(path, optimizer=optimizer, metadata=metadata) as writer:
        writer.append(0, params=theta(0))
    with trajfile.open(path) as run:
        assert run.manifest.optimizer == {
            "name": "AdamW",
            "betas": [0.9, 0.999],
            "weight_decay": 0.5,
        }
        assert run.manifest.metadata == {**metadata, "seed": 2**62}


def test_a_suffix_or_folder_that_cannot_be_is_refused_at_once(tmp_path):
    with pytest.raises(trajfile.UsageError, match=r"\.h5"):
        trajfile.Writer(tmp_path / "run.pt")
    with pytest.raises(trajfile.UsageError, match="create it first"):
        trajfile.Writer(tmp_path / "nowhere" / "run.h5")


def test_mode_x_refuses_what_exists(path):
    with trajfile.Writer(path) as writer:
        writer.append(0, params=theta(0))
    with pytest.raises(trajfile.UsageError, match="mode='a' to continue"):
        trajfile.Writer(path)


def test_mode_w_replaces_a_trajectory_at_the_first_append(path):
    with trajfile.Writer(path) as writer:
        writer.append(7, params=theta(0))
    with trajfile.Writer(path, "w") as writer, trajfile.open(path) as run:
        assert run.steps("params").tolist() == [7]
    with trajfile.Writer(path, "w") as writer:
        writer.append(1, gradients=theta(0))
    with trajfile.open(path) as run:
        assert run.streams == ("gradients",)


def test_mode_w_deletes_nothing_but_trajectories(tmp_path):
    notes = tmp_path / "notes.h5"
    notes.write_text("my thesis")
    folder = tmp_path / "photos.zarr"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"meow")
    for path in (notes, folder):
        with pytest.raises(trajfile.UsageError, match="remove it yourself"):
            trajfile.Writer(path, "w")
    assert notes.read_text() == "my thesis"
    assert (folder / "cat.jpg").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_mode_w_takes_an_empty_place(suffix, tmp_path):
    path = tmp_path / f"run{suffix}"
    if suffix == ".h5":
        path.touch()
    else:
        path.mkdir()
    with trajfile.Writer(path, "w") as writer:
        writer.append(0, params=theta(0))
    with trajfile.open(path) as run:
        assert len(run["params"]["w"]) == 1


RECORDED = {
    "optimizer": {"name": "SGD", "momentum": 0.9, "betas": [0.5, 0.9]},
    "groups": {"layers": ["w"]},
    "gradient": {"stage": "raw", "batch_size": None},
}


@pytest.mark.parametrize(
    ("where", "stated", "key", "words"),
    [
        ("optimizer", {"name": "Adam"}, "name", "recorded as 'SGD', and 'Adam'"),
        ("optimizer", {"name": "SGD", "momentum": 0.0}, "momentum", "as 0.9, and 0.0"),
        ("optimizer", {"betas": (0.5, 0.99)}, "betas", "as [0.5, 0.9], and [0.5, 0.99]"),
        ("groups", {"layers": ["w", "v"]}, "layers", "as ['w'], and ['w', 'v']"),
        ("gradient", {"source": "full_batch", "stage": "scaled"}, "stage", "as 'raw', and 'sc"),
    ],
)
def test_mode_a_refuses_to_contradict_the_rows_already_there(path, where, stated, key, words):
    with trajfile.Writer(path, **RECORDED) as writer:
        writer.append(0, params=theta(0))
    with pytest.raises(trajfile.UsageError) as caught:
        trajfile.Writer(path, "a", **{where: stated})
    message = str(caught.value)
    assert message.startswith(f"{where}[{key!r}] is ")
    assert words in message
    assert "omit it, or start a new file" in message
    with trajfile.Writer(path, "a") as writer:  # the refusal has let go of the file
        writer.append(1, params=theta(1))
    with trajfile.open(path) as run:
        assert run.manifest.optimizer == RECORDED["optimizer"]
        assert run.steps("params").tolist() == [0, 1]


def test_mode_a_takes_what_repeats_or_adds(path):
    with trajfile.Writer(path, metadata={"try": 1}, **RECORDED) as writer:
        writer.append(0, params=theta(0))
    more = {
        "optimizer": {"momentum": 0.9, "betas": (0.5, 0.9), "nesterov": True},
        "groups": {"layers": ["w"], "scale_invariant": ["w"]},
        "gradient": {"batch_size": 8},
    }
    with trajfile.Writer(path, "a", metadata={"resumed": True}, **more) as writer:
        writer.append(1, params=theta(1))
    with trajfile.open(path) as run:
        found = run.manifest
    assert found.optimizer == RECORDED["optimizer"] | {"nesterov": True}
    assert found.groups == {"layers": ("w",), "scale_invariant": ("w",)}
    assert found.gradient == {"stage": "raw", "batch_size": 8}
    assert found.metadata == {"resumed": True}


def test_mode_a_continues_where_it_was_left(path):
    def run_from(first, last, **more):
        with trajfile.Writer(path, "a", optimizer={"name": "Adam"}, **more) as writer:
            writer.declare("gradients", like=theta(0))
            for step in range(first, last):
                extra = {"late": np.zeros(2)} if step >= 2 else {}
                writer.append(step, params=theta(step) | extra, scalars={"loss": step})

    run_from(0, 3)
    with trajfile.open(path) as run:
        uuid = run.uuid
    with (
        trajfile.Writer(path, "a") as writer,
        pytest.raises(trajfile.StepOrder, match="after step 2"),
    ):
        writer.append(1, params=theta(1))
    run_from(3, 5, metadata={"resumed": True})
    with trajfile.Writer(path, "a") as writer:
        writer.append(5, gradients=theta(5), scalars={"accuracy": 0.5})
        with pytest.raises(trajfile.MissingTensor, match="'late'"):
            writer.append(6, params=theta(6))
    with trajfile.open(path) as run:
        assert run.uuid == uuid
        assert run.steps("params").tolist() == [0, 1, 2, 3, 4]
        assert run["params"]["late"].steps.tolist() == [2, 3, 4]
        assert run.steps("gradients").tolist() == [5]
        assert run.manifest.metadata == {"resumed": True}
        assert run.manifest.optimizer == {"name": "Adam"}
        np.testing.assert_array_equal(run["params"]["w"][4], theta(4)["w"])
        assert run.scalars["loss"][1].tolist() == [0, 1, 2, 3, 4]


def test_a_file_written_in_pieces_says_the_same_as_one_written_at_once(tmp_path):
    with trajfile.Writer(tmp_path / "once.h5") as writer:
        for step in range(4):
            writer.append(step, params=theta(step), scalars={"loss": step})
    for step in range(4):
        with trajfile.Writer(tmp_path / "pieces.zarr", "a") as writer:
            writer.append(step, params=theta(step), scalars={"loss": step})
    with trajfile.open(tmp_path / "once.h5") as a, trajfile.open(tmp_path / "pieces.zarr") as b:
        assert digest(a.container) == digest(b.container)


def test_a_run_that_is_open_for_reading_is_not_called_damaged(path):
    with trajfile.Writer(path) as writer:
        writer.append(0, params=theta(0))
    with trajfile.open(path):
        if path.suffix == ".zarr":
            trajfile.Writer(path, "a").close()
        else:  # HDF5 cannot do both in one process
            with pytest.raises(trajfile.UsageError, match="close that trajectory"):
                trajfile.Writer(path, "a")
    with trajfile.Writer(path, "a") as writer:
        writer.append(1, params=theta(1))


@pytest.mark.parametrize("background", [False, True])
def test_a_writer_that_was_closed_says_so(path, background):
    writer = trajfile.Writer(path, background=background)
    writer.append(0, params=theta(0))
    writer.close()
    writer.close()
    with writer:
        pass
    assert "closed" in repr(writer)
    with pytest.raises(trajfile.UsageError, match="closed"):
        writer.append(1, params=theta(1))


def test_an_error_in_the_body_keeps_what_was_appended(path):
    def train():
        with trajfile.Writer(path, background=True) as writer:
            for step in range(5):
                writer.append(step, params=theta(step))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    with trajfile.open(path) as run:
        assert len(run["params"]["w"]) == 5


def test_the_example_of_the_docstring_runs():
    assert doctest.testmod(trajfile.writer).attempted > 0
    assert doctest.testmod(trajfile.writer).failed == 0


def test_ml_dtypes_needs_no_torch(h5):
    with trajfile.Writer(h5) as writer:
        writer.append(0, params={"w": np.ones(3, ml_dtypes.bfloat16)})
    with trajfile.open(h5) as run:
        assert run.tensors("params")["w"].dtype == "bfloat16"
        assert "bfloat16" in EXTENDED


def test_a_group_may_name_a_tensor_that_joins_later(path):
    said = []
    with trajfile.Writer(path, groups={"layers": ["w", "head"]}) as writer:
        for step in range(4):
            late = {"head": np.ones((2, 3), np.float32)} if step >= 2 else {}
            writer.append(step, params=theta(step) | late, scalars={"learning_rate": 0.1})
            said.append([(f.id, f.severity) for f in trajfile.validate(path)])
    assert said == [[("USE-007", "warn")]] * 2 + [[]] * 2
    with trajfile.open(path) as run:
        assert run.manifest.groups == {"layers": ("w", "head")}
        assert run.header().groups == {"layers": ("w", "head")}
