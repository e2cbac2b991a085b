"""The user's loss as a function of one vector, against dense Hessians and curvlinops."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.replay.nets import data, dense, flat, loss_on, network
from trajfile.errors import UsageError
from trajfile.replay.factory import load_loss
from trajfile.replay.objective import Objective

with warnings.catch_warnings():  # a dependency of it still uses torch.jit.script
    warnings.simplefilter("ignore", DeprecationWarning)
    from curvlinops import HessianLinearOperator


def objective(loss, tensors, selected=None):
    return Objective(load_loss(lambda: loss, {}), tensors, list(selected or tensors))


def tensors_of(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def columns(made):
    unit = torch.eye(made.size, dtype=torch.float64)
    return torch.stack([made.product(row) for row in unit], dim=1)


def test_value_gradient_and_hessian_are_those_of_the_loss():
    model = network()
    loss = loss_on(model, *data())
    tensors = tensors_of(model)
    made = objective(loss, tensors)
    assert made.value == pytest.approx(float(loss(tensors)), rel=1e-14)
    torch.testing.assert_close(made.gradient, flat(torch.func.grad(loss)(tensors)))
    torch.testing.assert_close(columns(made), dense(loss, tensors))
    assert made.products == made.size
    assert made.unused == ()


def test_products_are_those_of_curvlinops_over_batches():
    model = network()
    inputs, targets = data()
    batches = [(inputs[i : i + 8], targets[i : i + 8]) for i in range(0, 24, 8)]

    def loss(tensors, batch):
        return loss_on(model, *batch)(tensors)

    tensors = tensors_of(model)
    made = Objective(load_loss(lambda: (loss, iter(batches)), {}), tensors, [*tensors])
    operator = HessianLinearOperator(model, nn.MSELoss(), list(model.parameters()), batches)
    vector = torch.randn(made.size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(made.product(vector), operator @ vector)
    whole = loss_on(model, inputs, targets)(tensors_of(model))
    assert made.value == pytest.approx(float(whole), rel=1e-14)


def test_selected_tensors_give_their_block():
    model = network()
    loss = loss_on(model, *data())
    tensors = tensors_of(model) | {"steps": torch.tensor(3)}
    made = objective(loss, tensors, ["0.weight"])
    assert made.size == 20
    block = dense(lambda t: loss({**tensors, **t}), {"0.weight": tensors["0.weight"]})
    torch.testing.assert_close(columns(made), block)


class Cube(torch.autograd.Function):
    """x³ with a backward that can be differentiated again, and no forward derivative."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * slope


def test_an_operation_without_a_forward_derivative_is_gone_through_backwards():
    tensors = {"x": torch.arange(1.0, 5.0, dtype=torch.float64)}
    made = objective(lambda t: Cube.apply(t["x"]).sum(), tensors)
    for _ in range(2):
        product = made.product(torch.ones(4, dtype=torch.float64))
        torch.testing.assert_close(product, 6 * tensors["x"])


def test_float32_is_kept_and_its_products_are_as_good_as_float32():
    model = network(torch.float32)
    loss = loss_on(model, *data(torch.float32))
    made = objective(loss, tensors_of(model))
    exact = dense(loss_on(model, *data()), {n: t.double() for n, t in tensors_of(model).items()})
    off = columns(made) - exact
    assert made.gradient.dtype == torch.float64
    assert 0 < float(off.abs().max()) < 1e-5 * float(exact.abs().max())


def test_tensors_that_the_loss_does_not_use_are_named():
    model = network()
    tensors = tensors_of(model)
    loss = loss_on(model, *data())
    made = objective(
        lambda given: loss({n: given[n] for n in tensors}),
        tensors | {"head.weight": torch.ones(3, dtype=torch.float64)},
    )
    assert made.unused == ("head.weight",)
    assert not columns(made)[-3:].any()


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda t: t["y"].sum(), ["KeyError", "'y'", "it was given the tensors x"]),
        (lambda t: t["x"] * 2, ["a Tensor of shape (4,)", "one real number"]),
        (lambda t: 3.0, ["returned a float"]),
        (lambda t: t["x"] @ torch.ones(5, dtype=torch.float64), ["RuntimeError"]),
        (lambda t: torch.ones(()), ["depends on none", "x"]),
        (lambda t: t["x"].detach().sum(), ["depends on none"]),
        (lambda t: 1 / 0, ["ZeroDivisionError"]),
    ],
    ids=["name", "vector", "float", "shape", "constant", "detached", "raises"],
)
def test_a_loss_that_does_not_go_with_the_tensors_is_refused(loss, words):
    with pytest.raises(UsageError) as refused:
        objective(loss, {"x": torch.ones(4, dtype=torch.float64)})
    assert all(word in str(refused.value) for word in words), refused.value


def test_no_batches_are_refused():
    loss = load_loss(lambda: (lambda tensors, batch: tensors["x"].sum(), []), {})
    with pytest.raises(UsageError, match="no batches"):
        Objective(loss, {"x": torch.ones(2)}, ["x"])


def test_a_loss_that_is_nan_is_a_value():
    made = objective(lambda t: t["x"].log().sum(), {"x": -torch.ones(2, dtype=torch.float64)})
    assert np.isnan(made.value)
