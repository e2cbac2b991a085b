"""Every kind of array arrives as NumPy with its bits untouched, or is refused by name."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import torch

from trajfile.arrays import as_array, as_number
from trajfile.dtypes import EXTENDED, ITEM_SIZES, NATIVE, bits_of, numpy_dtype

TORCH_EXTENDED = [name for name in EXTENDED if hasattr(torch, name) and name.startswith("float8")]


def random_bits(name: str, count: int = 64) -> np.ndarray:
    """Arbitrary bit patterns of a dtype, NaNs with payloads among them."""
    size = ITEM_SIZES[name]
    raw = np.random.default_rng(7).integers(0, 256, count * size, np.uint8)
    return raw.view(f"<u{size}").view(numpy_dtype(name))


@pytest.mark.parametrize("name", ITEM_SIZES)
def test_numpy_arrays_of_every_dtype_keep_their_bits_and_memory(name):
    given = random_bits(name)
    array = as_array(given)
    assert array.dtype == numpy_dtype(name)
    assert np.shares_memory(array, given)
    np.testing.assert_array_equal(bits_of(array), bits_of(given))


@pytest.mark.parametrize("name", [n for n in NATIVE if ITEM_SIZES[n] > 1])
def test_big_endian_input_becomes_little_endian_with_the_same_bits(name):
    given = random_bits(name)
    big = given.byteswap().view(given.dtype.newbyteorder(">"))
    array = as_array(big)
    assert array.dtype.newbyteorder("=").byteorder in "=|"
    assert array.dtype == numpy_dtype(name)
    np.testing.assert_array_equal(bits_of(array), bits_of(given))


@pytest.mark.parametrize("name", [*NATIVE, "bfloat16", *TORCH_EXTENDED])
def test_torch_tensors_keep_their_bits(name):
    bits = bits_of(random_bits(name))
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    raw = torch.from_numpy(bits.view(f"<i{bits.itemsize}" if bits.itemsize > 1 else "u1").copy())
    tensor = raw.view(integers[bits.itemsize]).view(getattr(torch, name))
    array = as_array(tensor.reshape(8, 8).t())
    assert array.dtype == numpy_dtype(name)
    np.testing.assert_array_equal(bits_of(array), bits.reshape(8, 8).T)


def test_torch_parameters_and_scalars_need_no_detaching():
    parameter = torch.nn.Parameter(torch.arange(3.0))
    np.testing.assert_array_equal(as_array(parameter), [0.0, 1.0, 2.0])
    low = as_array(torch.tensor(1.5, dtype=torch.bfloat16, requires_grad=True))
    assert low.shape == ()
    assert low.dtype == ml_dtypes.bfloat16
    assert float(low) == 1.5


def test_a_torch_negative_view_is_resolved():
    imaginary = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    assert imaginary.is_neg()
    np.testing.assert_array_equal(as_array(imaginary), [-2.0, 4.0])


class OnlyArray:
    def __array__(self, dtype=None, copy=None):
        return np.arange(3, dtype=np.int16)


class OnlyDlpack:
    """An array of another framework that lives elsewhere and copies itself to the host."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **kwargs):
        kwargs.pop("dl_device", None)
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class RefusesArray(OnlyDlpack):
    def __array__(self, dtype=None, copy=None):
        raise TypeError("implicit conversion is not allowed")


def test_other_frameworks_through_either_protocol():
    given = np.arange(4.0, dtype=np.float32)
    np.testing.assert_array_equal(as_array(OnlyArray()), np.arange(3))
    np.testing.assert_array_equal(as_array(OnlyDlpack(given)), given)
    np.testing.assert_array_equal(as_array(RefusesArray(given)), given)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.ones(2, bool), "dtype bool cannot be recorded"),
        (np.ones(2, complex), "dtype complex128"),
        (np.array(["a"]), "dtype <U1"),
        (np.array([object()]), "dtype object"),
        (np.zeros(2, "datetime64[s]"), "dtype datetime64"),
        (torch.ones(2, dtype=torch.bool), "dtype torch.bool"),
        (torch.ones(2, dtype=torch.complex64), "dtype torch.complex64"),
        (torch.eye(2).to_sparse(), "sparse_coo"),
        (torch.ones(2, device="meta"), "on meta"),
        ([1.0, 2.0], "a list is not an array"),
        (1.5, "a float is not an array"),
        (np.ma.masked_array([1.0], [True]), "masked array"),
    ],
)
def test_what_has_no_lane_is_refused_by_name(value, says):
    with pytest.raises(TypeError, match=says):
        as_array(value)


@pytest.mark.parametrize(
    "value",
    [2, 2.0, np.float32(2), np.int8(2), np.array(2.0), torch.tensor(2), ml_dtypes.bfloat16(2)],
)
def test_numbers_of_every_kind(value):
    assert as_number(value) == 2.0
    assert type(as_number(value)) is float


def test_a_loss_with_its_graph_is_a_number():
    parameter = torch.nn.Parameter(torch.full((3,), 2.0))
    assert as_number((parameter**2).sum()) == 12.0


def test_every_nan_becomes_the_plain_one():
    odd = np.array([0x7FF8000074726A66], np.uint64).view(np.float64)[0]
    assert np.float64(as_number(odd)).tobytes() == np.float64(math.nan).tobytes()
    assert as_number(-math.inf) == -math.inf


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("0.5", "'0.5'"),
        (b"1", "b'1'"),
        (np.ones(1), r"shape \(1,\)"),
        (torch.ones(2, 2), r"shape \(2, 2\)"),
        (1j, "complex"),
        (np.complex128(1j), "complex128"),
        (torch.tensor(1j), "complex64"),
        (torch.ones((), device="meta"), "meta"),
        (10**400, "too large"),
        (None, "NoneType"),
    ],
)
def test_what_is_not_one_real_number_is_refused(value, says):
    with pytest.raises(TypeError, match=says):
        as_number(value)
