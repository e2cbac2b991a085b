"""Finding the one damaged byte of data whose CRC-32C is known."""

from __future__ import annotations

from trajfile.containers.record import crc32c

_POLYNOMIAL = 0x82F63B78
#: Beyond so many bytes chance could point at a byte: at 4096 with a probability of 1 in 4000.
_MOST_BYTES = 4096


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()
_ERROR_OF = {value: error for error, value in enumerate(_TABLE) if error}
_BY_TOP_BYTE = {value >> 24: error for error, value in enumerate(_TABLE)}


def mended(data: bytes, expected: int, before: int = 0) -> bytes | None:
    """The data with one byte changed so that its checksum holds.

    A damaged byte changes the checksum by an amount that depends on the change and on how many
    bytes follow alone, so going back from the end tells whether some byte explains what is found.

    Args:
        data: The data.
        expected: The CRC-32C of the data as it was, continued from `before`.
        before: CRC of what precedes the data.

    Returns:
        The data as it was; None if no single byte explains it, or several do.
    """
    difference = crc32c(data, before) ^ expected
    if not difference or len(data) > _MOST_BYTES or expected >> 32:
        return None
    found = None
    for place in range(len(data) - 1, -1, -1):
        error = _ERROR_OF.get(difference)
        if error is not None:
            if found is not None:
                return None
            found = data[:place] + bytes([data[place] ^ error]) + data[place + 1 :]
        # What the difference was before one more byte of zeros went through.
        index = _BY_TOP_BYTE[difference >> 24]
        difference = ((difference ^ _TABLE[index]) << 8 | index) & 0xFFFFFFFF
    return found
