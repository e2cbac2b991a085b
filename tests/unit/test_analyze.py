"""From a run to a report: selection, options, errors, and what the report says of the pass."""

import json

import numpy as np
import pytest
import torch

import trajfile
from tests.recorded import recorded
from tests.twin import Dense
from trajfile.analyze import analyze, plan
from trajfile.errors import MissingStream, NotATrajectory, ResourceError, UsageError
from trajfile.metrics import METRICS
from trajfile.reader import Trajectory
from trajfile.report import SEVERITIES, Report


@pytest.fixture
def run():
    """Gradient descent on (1/2)||theta||^2 with every stream but samples."""
    rate, rows = 0.1, 12
    theta = np.array([3.0, -4.0, 12.0])
    params = np.stack([theta * (1 - rate) ** k for k in range(rows)])
    steps = np.arange(rows)
    loss = 0.5 * (params**2).sum(axis=1)
    return Dense(
        {"params": steps, "gradients": steps},
        {
            "params": {"w": params, "v": params[:, :1]},
            "gradients": {"w": params, "v": params[:, :1]},
        },
        {"loss": (steps, loss), "learning_rate": (steps, np.full(rows, rate))},
        optimizer={"name": "SGD", "weight_decay": 0.0, "momentum": 0.0},
        gradient={"stage": "raw", "source": "full_batch"},
    )


@pytest.fixture
def opened(run):
    return Trajectory(recorded(run))


def test_every_metric_is_in_the_report_in_the_order_of_the_table(opened):
    report = analyze(opened)
    assert list(report.metrics) == list(METRICS)
    assert report.metrics["gradient_noise"].status == "skipped"
    assert report.metrics["norms"].status == "ok"
    assert report.verdict
    for name, result in report.metrics.items():
        assert result.definition == METRICS[name].definition
        assert (result.reason is None) == (result.status == "ok")


def test_the_numbers_are_those_of_the_run(opened):
    report = analyze(opened, ["norms"])
    found = report.metrics["norms"].series["params"].value
    expected = np.sqrt(9 + 16 + 144 + 9) * 0.9 ** np.arange(12)
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_report_tells_what_was_read_and_how(opened):
    report = analyze(opened, ["norms"], memory="64MiB")
    assert report.source.parameters == 4
    assert report.source.tensors == 2
    assert report.source.container == "memory"
    assert report.source.uuid == opened.uuid
    assert report.source.streams["params"].last_step == 11
    assert report.run.device == ("cpu" if not torch.cuda.is_available() else report.run.device)
    assert report.run.passes == 1
    assert report.run.bytes_read == opened.container.bytes_read
    assert report.run.memory_budget_bytes == 2**26
    assert 0 < report.run.peak_buffer_bytes <= 2**26
    assert Report.from_dict(json.loads(report.to_json())).to_dict() == report.to_dict()


def test_more_metrics_read_no_byte_twice(run):
    one, every = Trajectory(recorded(run)), Trajectory(recorded(run))
    analyze(one, ["norms"])
    analyze(every)
    assert every.container.bytes_read == one.container.bytes_read == 2 * 12 * 4 * 8


def test_a_selection_narrows_source_and_series(opened):
    report = analyze(opened, "norms", params=["w"], steps="2:10:2")
    assert report.source.parameters == 3
    assert report.source.streams["params"].rows == 4
    assert report.metrics["norms"].series["params"].step == [2, 4, 6, 8]


def test_metrics_are_given_as_a_list_or_with_commas(opened):
    assert list(analyze(opened, "geometry, norms").metrics) == ["norms", "geometry"]


def test_an_unknown_metric_is_named_with_the_nearest(opened):
    with pytest.raises(UsageError, match="Did you mean 'norms'"):
        analyze(opened, ["norm"])


def test_an_option_changes_its_metric_alone_and_is_reported(opened):
    report = analyze(opened, options={"periodicity.delta": "0.25"})
    assert report.metrics["periodicity"].options["delta"] == 0.25
    assert analyze(opened).metrics["periodicity"].options["delta"] == 0.1


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ({"periodicity.detla": 0.1}, "Did you mean 'delta'"),
        ({"periodicty.delta": 0.1}, "Did you mean 'periodicity'"),
        ({"periodicity.delta": "much"}, "periodicity.delta='much' is refused"),
        ({"delta": 0.1}, "no metric called 'delta'"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_read(opened, option, why):
    with pytest.raises(UsageError, match=why):
        analyze(opened, options=option)
    assert opened.container.bytes_read == 0


def test_a_missing_stream_is_an_error_only_where_the_metric_was_asked_for(opened):
    assert analyze(opened).metrics["gradient_noise"].status == "skipped"
    with pytest.raises(MissingStream, match="gradient_noise") as caught:
        analyze(opened, ["gradient_noise"])
    assert caught.value.stream == "gradient_samples"
    with pytest.raises(MissingStream):
        plan(opened, ["gradient_noise"])


def test_a_metric_that_fails_spares_the_others(opened, monkeypatch):
    def fails(self, measured):
        raise ZeroDivisionError("nothing to divide by")

    monkeypatch.setattr(METRICS["geometry"], "compute", fails)
    report = analyze(opened)
    failed = report.metrics["geometry"]
    assert failed.status == "error"
    assert "nothing to divide by" in (failed.reason or "")
    assert report.findings[0].id == "geometry.failed"
    assert report.metrics["norms"].status == "ok"


def test_findings_come_most_severe_first(run):
    run.arrays["params"]["w"][8:] = np.nan
    report = analyze(Trajectory(recorded(run)))
    ranks = [SEVERITIES.index(finding.severity) for finding in report.findings]
    assert ranks == sorted(ranks)
    assert report.findings[0].severity == "error"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_gpu_that_is_not_there_is_out_of_resources(opened):
    with pytest.raises(ResourceError, match="--device cpu"):
        analyze(opened, device="cuda")


def test_arguments_are_checked_before_the_run_is_opened():
    for wrong in ({"device": "tpu"}, {"memory": "lots"}, {"metrics": ["x"]}):
        with pytest.raises(UsageError):
            analyze("no such file.h5", **wrong)
    with pytest.raises(NotATrajectory):
        analyze("no such file.h5")


def test_too_little_memory_is_told_before_anything_is_read(opened):
    with pytest.raises(ResourceError, match="allow more memory"):
        analyze(opened, memory=100)
    assert opened.container.bytes_read == 0


def test_the_plan_reads_nothing_and_says_what_the_pass_will_do(opened):
    planned = plan(opened, memory="1MiB")
    assert opened.container.bytes_read == 0
    told = dict(planned.describe())
    assert "norms" in told["computes"]
    assert "gradient_samples" in told["skips gradient_noise"]
    assert analyze(opened, memory="1MiB").run.bytes_read == planned.bytes_to_read


def test_progress_reaches_its_end(opened):
    told = []
    report = analyze(opened, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (report.run.bytes_read, report.run.bytes_read)


def test_a_run_of_scalars_alone_is_told_so_and_not_a_failure(run):
    bare = Dense({}, {}, run.scalars)
    report = analyze(Trajectory(recorded(bare)))
    assert {result.status for result in report.metrics.values()} <= {"skipped", "insufficient"}
    assert report.run.bytes_read == 0
    assert report.source.parameters == 0


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_run_of_few_snapshots_gives_a_report(run, rows):
    few = Dense(
        {stream: steps[:rows] for stream, steps in run.steps.items()},
        {s: {n: x[:rows] for n, x in named.items()} for s, named in run.arrays.items()},
        {name: (at[:rows], values[:rows]) for name, (at, values) in run.scalars.items()},
        run.optimizer,
        gradient=run.gradient,
    )
    report = analyze(Trajectory(recorded(few)))
    assert "error" not in {result.status for result in report.metrics.values()}


def test_containers_on_disk_give_the_report_of_the_one_in_memory(run, opened, tmp_path):
    in_memory = analyze(opened).to_dict()["metrics"]
    for suffix in (".h5", ".zarr"):
        path = tmp_path / f"run{suffix}"
        with trajfile.Writer(path, optimizer=run.optimizer, gradient=run.gradient) as writer:
            for k in range(12):
                writer.append(
                    k,
                    params={n: x[k] for n, x in run.arrays["params"].items()},
                    gradients={n: x[k] for n, x in run.arrays["gradients"].items()},
                    scalars={n: float(values[k]) for n, (_, values) in run.scalars.items()},
                )
        assert analyze(path, memory="8MiB").to_dict()["metrics"] == in_memory
