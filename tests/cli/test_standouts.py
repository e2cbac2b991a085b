from trajfile_cli.render.standouts import standouts

from trajfile.report import MetricResult, TensorResult


def norms(status="ok", **tensors):
    return {
        "norms": MetricResult(
            status,
            per_tensor={
                name: TensorResult({"relative_update_median": value, "moved": value != 0})
                for name, value in tensors.items()
            },
        )
    }


def test_a_tensor_far_from_the_median_stands_out_with_its_numbers():
    [found] = standouts(norms(a=0.002, b=0.0021, c=0.0019, d=0.31))
    assert found.tensor == "d"
    assert found.why == "relative update 0.31, 151× the median"


def test_far_below_counts_too_and_the_farthest_comes_first():
    found = standouts(norms(a=1e-3, b=1e-3, c=1e-3, slow=1e-6, fast=2e-2))
    assert [s.tensor for s in found] == ["slow", "fast"]
    assert found[0].why == "relative update 1e-6, 1/1000 of the median"


def test_tensors_within_a_factor_of_three_do_not():
    assert standouts(norms(a=1e-3, b=2.9e-3, c=3.5e-4)) == []
    assert [s.tensor for s in standouts(norms(a=1e-3, b=3.1e-3, c=3.5e-4))] == ["b"]


def test_a_large_gradient_stands_out_and_a_small_one_does_not():
    entries = {"a": 1.0, "b": 1.0, "c": 1.0, "tiny": 1e-6, "large": 20.0}
    per_tensor = {n: TensorResult({"gradient_norm_mean": g}) for n, g in entries.items()}
    [found] = standouts({"norms": MetricResult("ok", per_tensor=per_tensor)})
    assert (found.tensor, found.why) == ("large", "gradient norm 20, 20× the median")


def test_two_tensors_have_no_others_to_stand_out_from():
    assert standouts(norms(a=1e-9, b=1.0)) == []


def test_a_tensor_that_never_moved_stands_out_by_itself():
    [found] = standouts(norms(a=0.0, b=1e-3))
    assert (found.tensor, found.why) == ("a", "never moved")


def test_metrics_that_are_not_ok_and_undefined_values_do_not_count():
    assert standouts(norms("insufficient", a=1e-3, b=1e-3, c=1e-3, d=1.0)) == []
    assert standouts(norms(a=1e-3, b=1e-3, c=1e-3, d=None)) == []


def test_misaligned_tensors_stand_out_where_the_others_are_aligned():
    def alignment(*cosines):
        entries = {f"t{k}": TensorResult({"cosine_mean": c}) for k, c in enumerate(cosines)}
        return {"alignment": MetricResult("ok", per_tensor=entries)}

    [found] = standouts(alignment(0.8, 0.6, -0.4, 0.5))
    assert found.tensor == "t2"
    assert found.why == "mean cosine -0.4, the median is 0.55"
    assert standouts(alignment(-0.8, -0.6, -0.4, 0.5)) == []


def test_at_most_two_reasons_a_tensor_strongest_first():
    metrics = norms(a=1e-3, b=1e-3, c=1e-3, d=1.0)
    metrics["elr"] = MetricResult(
        "ok",
        per_tensor={n: TensorResult({"angular_update": 0.5 if n == "d" else 0.01}) for n in "abcd"},
    )
    metrics["alignment"] = MetricResult(
        "ok",
        per_tensor={n: TensorResult({"cosine_mean": -0.1 if n == "d" else 0.5}) for n in "abcd"},
    )
    [found] = standouts(metrics)
    assert found.why == "relative update 1, 1000× the median; rotation a step 0.5, 50× the median"
