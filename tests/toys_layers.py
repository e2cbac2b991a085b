"""Small exact trainings for the metrics on curvature and layers, as dense runs in float64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from tests.twin import Dense

SGD = {"name": "SGD", "momentum": 0.0, "weight_decay": 0.0}


def quadratic(eigenvalues, start, rate, steps, optimizer=SGD):
    """Gradient descent on (1/2) x' diag(eigenvalues) x from `start`: steps + 1 snapshots."""
    eigenvalues = np.asarray(eigenvalues, np.float64)
    snapshots = [np.asarray(start, np.float64)]
    for _ in range(steps):
        snapshots.append(snapshots[-1] - rate * eigenvalues * snapshots[-1])
    theta = np.stack(snapshots)
    return Dense(
        steps={"params": np.arange(len(theta)), "gradients": np.arange(len(theta))},
        arrays={"params": {"x": theta}, "gradients": {"x": theta * eigenvalues}},
        scalars={
            "learning_rate": ([0], [rate]),
            "loss": (np.arange(len(theta)), 0.5 * (theta**2 * eigenvalues).sum(axis=1)),
        },
        optimizer=optimizer,
        gradient={"stage": "raw", "source": "full_batch"},
    )


def stability_quadratic(rate):
    """12 displacements on a quadratic with lambda_max = 20 and 5 next, all starting at 1.

    Only the starts of the two sharpest directions are set apart.
    """
    start = np.ones(20)
    start[:2] = 1.3, 1.265
    return quadratic(np.r_[20.0, np.linspace(5.0, 0.1, 19)], start, rate, 12)


def tanh_network(rate, steps, seed=1, width=6):
    """Full-batch gradient descent on a small tanh network, with lambda_max at every snapshot.

    Returns the dense run and the top eigenvalue of the Hessian at each step; the Hessian is the
    central difference of the analytic gradient, good to about 1e-9.
    """
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((30, 4))
    targets = np.sin(2 * inputs[:, :1]) + 0.5 * inputs[:, 1:2] * inputs[:, 2:3]
    shapes = {"fc1.weight": (width, 4), "fc2.weight": (width, width), "fc3.weight": (1, width)}
    sizes = [a * b for a, b in shapes.values()]
    theta = np.concatenate(
        [1.5 / np.sqrt(shape[1]) * rng.standard_normal(shape).ravel() for shape in shapes.values()]
    )

    def split(flat):
        parts = np.split(flat, np.cumsum(sizes)[:-1], axis=-1)
        return [p.reshape(-1, *s) for p, s in zip(parts, shapes.values(), strict=True)]

    def slopes(flat):
        """Losses (n,) and gradients (n, size) of n networks at once."""
        w1, w2, w3 = split(flat)
        a1 = np.tanh(inputs @ w1.transpose(0, 2, 1))
        a2 = np.tanh(a1 @ w2.transpose(0, 2, 1))
        error = a2 @ w3.transpose(0, 2, 1) - targets
        back3 = 2 * error / error[0].size
        back2 = (back3 @ w3) * (1 - a2**2)
        back1 = (back2 @ w2) * (1 - a1**2)
        grads = [
            back.transpose(0, 2, 1) @ signal
            for back, signal in ((back1, inputs), (back2, a1), (back3, a2))
        ]
        return (error**2).mean(axis=(1, 2)), np.concatenate(
            [g.reshape(len(g), -1) for g in grads], 1
        )

    nudges = 1e-5 * np.eye(len(theta))
    thetas, gradients, losses, tops = [], [], [], []
    for _ in range(steps):
        loss, gradient = slopes(theta[None])
        hessian = (slopes(theta + nudges)[1] - slopes(theta - nudges)[1]) / 2e-5
        thetas.append(theta)
        gradients.append(gradient[0])
        losses.append(loss[0])
        tops.append(np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1])
        theta = theta - rate * gradient[0]
    dense = Dense(
        steps={"params": np.arange(steps), "gradients": np.arange(steps)},
        arrays={
            "params": dict(zip(shapes, split(np.stack(thetas)), strict=True)),
            "gradients": dict(zip(shapes, split(np.stack(gradients)), strict=True)),
        },
        scalars={
            "learning_rate": ([0], [rate]),
            "loss": (np.arange(steps), np.array(losses)),
        },
        optimizer=SGD,
        gradient={"stage": "raw", "source": "full_batch"},
    )
    return dense, np.array(tops)


def two_scalars(rate, steps, decay=0.0, every=1, start=(0.1, 1.7)):
    """Gradient descent with coupled decay on (w1 w2 - 1)^2; keeps every n-th step and the last.

    The weights are 1 x 1 matrices, so that they are two linear layers.
    """
    first, second = start
    kept = []
    for step in range(steps + 1):
        error = first * second - 1.0
        slopes = 2 * error * second, 2 * error * first
        if step % every == 0 or step == steps:
            kept.append((step, first, second, *slopes, error * error))
        first -= rate * (slopes[0] + decay * first)
        second -= rate * (slopes[1] + decay * second)
    table = np.array(kept)
    at = table[:, 0].astype(np.int64)
    column = table[:, 1:].T.reshape(5, -1, 1, 1)
    return Dense(
        steps={"params": at, "gradients": at},
        arrays={
            "params": {"w1": column[0], "w2": column[1]},
            "gradients": {"w1": column[2], "w2": column[3]},
        },
        scalars={"learning_rate": ([0], [rate]), "loss": (at, table[:, 5])},
        optimizer={**SGD, "weight_decay": decay},
        groups={"layers": ["w1", "w2"]},
        gradient={"stage": "raw", "source": "full_batch"},
    )


def linear_network(
    rate, steps, decay=0.0, widths=(3, 5, 4, 2), seed=0, batch=None, every=1, scale=0.6
):
    """Deep linear regression under SGD with coupled decay; full batch unless `batch` is given."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((widths[0], 40))
    targets = rng.standard_normal((widths[-1], widths[0])) @ inputs
    weights = [scale * rng.standard_normal((b, a)) for a, b in pairwise(widths)]
    names = [f"fc{k + 1}.weight" for k in range(len(weights))]
    at, losses = [], []
    thetas, gradients = {n: [] for n in names}, {n: [] for n in names}
    for step in range(steps + 1):
        chosen = slice(None) if batch is None else rng.choice(40, batch, replace=False)
        signals = [inputs[:, chosen]]
        for weight in weights:
            signals.append(weight @ signals[-1])
        error = signals[-1] - targets[:, chosen]
        count = error.shape[1]
        back, slopes = 2 * error / count, []
        for weight, signal in zip(reversed(weights), reversed(signals[:-1]), strict=True):
            slopes.insert(0, back @ signal.T)
            back = weight.T @ back
        if step % every == 0 or step == steps:
            at.append(step)
            losses.append((error**2).sum() / count)
            for name, weight, slope in zip(names, weights, slopes, strict=True):
                thetas[name].append(weight.copy())
                gradients[name].append(slope)
        weights = [w - rate * (g + decay * w) for w, g in zip(weights, slopes, strict=True)]
    return Dense(
        steps={"params": np.array(at), "gradients": np.array(at)},
        arrays={
            "params": {n: np.stack(v) for n, v in thetas.items()},
            "gradients": {n: np.stack(v) for n, v in gradients.items()},
        },
        scalars={"learning_rate": ([0], [rate]), "loss": (np.array(at), np.array(losses))},
        optimizer={**SGD, "weight_decay": decay},
        groups={"layers": names},
        gradient={"stage": "raw", "source": "full_batch" if batch is None else "mini_batch"},
    )
