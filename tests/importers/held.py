"""What a checkpoint folder should say, held against what its own library loads."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

import trajfile
from trajfile.reader import Trajectory


def bits(value: object) -> np.ndarray:
    """An array or tensor as unsigned bits, bfloat16 and its like included."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        value = value.reshape(-1).view(kind[value.element_size()]).numpy()
    flat = np.ascontiguousarray(value).reshape(-1)
    return flat.view(f"u{flat.dtype.itemsize}")


def check_stream(
    traj: Trajectory, stream: str, expected: Mapping[int, Mapping[str, object]]
) -> None:
    """Every tensor of a stream at every step is, bit for bit, the expected one."""
    assert traj.steps(stream).tolist() == sorted(expected)
    for step, tensors in expected.items():
        assert set(traj[stream]) == set(tensors)
        for name, value in tensors.items():
            found = traj[stream][name].at(step)
            assert found.shape == tuple(np.shape(value)), name
            np.testing.assert_array_equal(bits(found), bits(value), err_msg=name)


def opened(path: object) -> Trajectory:
    return trajfile.open(path)
