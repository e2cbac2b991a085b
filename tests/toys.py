"""Trajectories that can be written down exactly, in float64, as dense runs for the twin."""

from __future__ import annotations

import math
import random

import numpy as np

from tests.twin import Dense
from trajfile.engine.measurements import Band, Measurements


def dense(
    thetas,
    gradients=None,
    updates=None,
    *,
    steps=None,
    losses=None,
    rates=None,
    name="w",
    optimizer=None,
    **provenance,
) -> Dense:
    """One tensor's run. `steps` is where the snapshots lie; the rest starts at the same steps."""
    steps = np.arange(len(thetas)) if steps is None else np.asarray(steps)
    given = {"params": thetas, "gradients": gradients, "updates": updates}
    arrays = {s: {name: np.asarray(x, np.float64)} for s, x in given.items() if x is not None}
    scalars = {}
    if losses is not None:
        scalars["loss"] = (steps[: len(losses)], np.asarray(losses, np.float64))
    if rates is not None:
        values = np.broadcast_to(np.asarray(rates, np.float64), len(steps))
        scalars["learning_rate"] = (steps, values)
    return Dense(
        steps={s: steps[: len(x[name])] for s, x in arrays.items()},
        arrays=arrays,
        scalars=scalars,
        optimizer=optimizer or {},
        **provenance,
    )


def quadratic(c, rate, steps, start=(1.0,)):
    """Gradient descent on (c/2)||θ||²: `steps` + 1 snapshots, gradients and losses."""
    thetas = np.asarray(start) * (1 - rate * c) ** np.arange(steps + 1)[:, None]
    return thetas, c * thetas, c / 2 * (thetas**2).sum(axis=1)


def sphere_angles(alpha, rate, steps, start=0.3):
    """The recursion φ' = φ - arctan(c sin 2φ), c = rate·alpha, on the unit circle."""
    angles = [start]
    for _ in range(steps):
        angles.append(angles[-1] - math.atan(rate * alpha * math.sin(2 * angles[-1])))
    return np.array(angles)


def sphere(alpha, rate, steps, start=0.3):
    """f = αx²/(x²+y²) by gradient descent, projected to the unit circle after each step."""
    theta, rows, slopes, losses = np.array([math.sin(start), math.cos(start)]), [], [], []
    for _ in range(steps + 1):
        slope = sphere_gradient(alpha, theta)
        rows.append(theta)
        slopes.append(slope)
        losses.append(alpha * theta[0] ** 2 / (theta @ theta))
        theta = theta - rate * slope
        theta = theta / np.linalg.norm(theta)
    return np.array(rows), np.array(slopes), np.array(losses)


def sphere_gradient(alpha, theta):
    """Gradient of αx²/(x²+y²)."""
    x, y = theta
    square = x * x + y * y
    return 2 * alpha * x * y / square**2 * np.array([y, -x])


def sphere_groups(alphas, rate, steps, start=0.2):
    """Σ α_i x_i²/(x_i²+y_i²) over groups that share one unit sphere, as (steps+1, groups, 2)."""
    theta = np.array([[math.sin(start), math.cos(start)]] * len(alphas)) / math.sqrt(len(alphas))
    rows, slopes, losses = [], [], []
    for _ in range(steps + 1):
        slope = np.array([sphere_gradient(a, t) for a, t in zip(alphas, theta, strict=True)])
        rows.append(theta)
        slopes.append(slope)
        losses.append(sum(a * t[0] ** 2 / (t @ t) for a, t in zip(alphas, theta, strict=True)))
        theta = theta - rate * slope
        theta = theta / np.linalg.norm(theta)
    return np.array(rows), np.array(slopes), np.array(losses)


def decaying_circle(rate, decay, steps, alpha=1.0, noise=1e-6, seed=1, start=1.0):
    """SGD with weight decay on αx²/(x²+y²), the gradient's tangential part disturbed by noise.

    Returns:
        Snapshots (steps, 2), gradients (steps, 2), and the angles they were made from.
    """
    normal = random.Random(seed).gauss
    angle, radius, keep = start, 1.0, 1 - rate * decay
    angles, radii, slopes = [], [], []
    for _ in range(steps):
        slope = alpha * math.sin(2 * angle) / radius + noise * normal(0, 1)
        angles.append(angle)
        radii.append(radius)
        slopes.append(slope)
        angle -= math.atan2(rate * slope, keep * radius)
        radius = math.hypot(keep * radius, rate * slope)
    sine, cosine = np.sin(angles), np.cos(angles)
    thetas = np.stack([sine, cosine], axis=1) * np.array(radii)[:, None]
    return thetas, np.stack([cosine, -sine], axis=1) * np.array(slopes)[:, None], np.array(angles)


def random_rotation(rate, decay, steps, size, *, momentum=0.0, adam=False, seed=0):
    """Scale-invariant weights under pure gradient noise: SGD with coupled decay, or AdamW-like.

    SGD draws gradients of norm 1/||θ||; the AdamW-like updates average directions of norm one and
    decay apart from them.
    """
    normal = np.random.default_rng(seed)
    # Begin at the norm where noise and decay balance, to look at equilibrium from the start.
    weight = 1.0 if adam else 1 / (1 - momentum)
    power = 2 if adam else 4
    theta = normal.normal(size=size)
    theta *= (rate * weight / (2 * decay)) ** (1 / power) / np.linalg.norm(theta)
    buffer, rows = np.zeros(size), []
    for _ in range(steps):
        rows.append(theta)
        slope = normal.normal(size=size)
        slope -= theta * (theta @ slope) / (theta @ theta)
        slope /= np.linalg.norm(slope)
        if adam:
            buffer = momentum * buffer + (1 - momentum) * slope
            theta = theta - rate * buffer - rate * decay * theta
        else:
            buffer = momentum * buffer + slope / np.linalg.norm(theta) + decay * theta
            theta = theta - rate * buffer
    return np.array(rows)


def measure_long(dense, needs, thetas, slopes):
    """As `twin.measure` at lag 0, for one tensor ``w`` of many rows, by whole-array NumPy."""
    bands = {}
    for need in needs:
        left, right = (
            np.concatenate([np.diff(x, axis=0), np.full((1, x.shape[1]), np.nan)])
            if row.form == "difference"
            else x
            for row in (need.left, need.right)
            for x in [thetas if row.stream == "params" else slopes]
        )
        inner = (left * right).sum(axis=1)[:, None]
        bands[need.left, need.right] = Band((0,), inner, {"w": inner})
    return Measurements(dense.header, bands)
