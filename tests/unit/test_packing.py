"""What repeats in a row as it is, is found by every compression of such rows."""

from __future__ import annotations

import numpy as np
import pytest

from trajfile.containers.packing import compress, decompress

COUNT = 2**16
GENERATOR = np.random.default_rng(0)
ROWS = {
    "ones": (np.ones(COUNT, np.float32), 0.01),
    "periodic": (np.tile(GENERATOR.standard_normal(64).astype(np.float32), COUNT // 64), 0.02),
    "rounded": (np.round(GENERATOR.standard_normal(COUNT), 2).astype(np.float32), 0.5),
}


@pytest.mark.parametrize("content", ROWS)
@pytest.mark.parametrize("compression", ["zstd", "gzip", "zlib"])
def test_repetitions_are_found(compression: str, content: str) -> None:
    row, most = ROWS[content]
    packed = np.frombuffer(compress(row, compression), np.uint8)
    assert packed.nbytes < most * row.nbytes
    out = np.empty(row.nbytes, np.uint8)
    decompress(packed, compression, out)
    np.testing.assert_array_equal(out.view(np.float32), row)
