"""The CRC32C of a part of some bytes, from that of the whole and of what stands around: without reading the part again.

A CRC is linear: crc(A + B) = shift(crc(A), length of B) XOR crc(B), where shift multiplies by a power of x modulo the
polynomial. So with D = F + I + T, crc(I) follows from crc(D), crc(F) and crc(T), for whole arrays of records at a time.
Source: M. Adler's crc32_combine in zlib; https://www.rfc-editor.org/rfc/rfc3720#appendix-B.4 for the polynomial.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

#: CRC32C's polynomial, bits reversed.
_POLYNOMIAL = 0x82F63B78

#: x to this power is 1: the polynomial is x + 1 times a primitive one of degree 31.
_ORDER = (1 << 31) - 1

Checksums = npt.NDArray[np.uint32]
Tables = npt.NDArray[np.uint32]  # [4, 256]: what each byte of an argument contributes


def of_parts(
    whole: Checksums, front: Checksums, after: Checksums, after_bytes: Checksums, part_bytes: Checksums
) -> Checksums:
    """The checksums of parts: of `part_bytes` each, behind bytes with checksum `front`, before `after_bytes` others."""
    with_front = whole ^ after
    for length in np.unique(after_bytes).tolist():
        chosen = after_bytes == length
        with_front[chosen] = _apply(_shift(-8 * length), with_front[chosen])
    return with_front ^ _shifted(front, part_bytes)


def _shifted(checksums: Checksums, lengths: Checksums) -> Checksums:
    """Each checksum as if so many zero bytes followed."""
    found = checksums.copy()
    for bit in range(int(lengths.max(initial=0)).bit_length()):
        chosen = (lengths >> np.uint32(bit)) & np.uint32(1) == 1
        found[chosen] = _apply(_shift(8 << bit), found[chosen])
    return found


def _apply(tables: Tables, values: Checksums) -> Checksums:
    """A linear function of 32 bits, one table look-up for each byte."""
    found: Checksums = tables[0][values & 255]
    for place in range(1, 4):
        found = found ^ tables[place][(values >> np.uint32(8 * place)) & 255]
    return found


@functools.lru_cache(maxsize=512)
def _shift(bits: int) -> Tables:
    """The function that multiplies by x to the power of `bits`, which may be negative."""
    columns = np.uint32(1) << np.arange(32, dtype=np.uint32)
    exponent = bits % _ORDER
    for power in range(exponent.bit_length()):
        if exponent >> power & 1:
            columns = _apply(_square(power), columns)
    return _tables(columns)


@functools.cache
def _square(power: int) -> Tables:
    """The function that multiplies by x to the power of 2 to the power of `power`."""
    if power:
        half = _square(power - 1)
        return _tables(_apply(half, _apply(half, np.uint32(1) << np.arange(32, dtype=np.uint32))))
    columns = np.concatenate([np.array([_POLYNOMIAL], np.uint32), np.uint32(1) << np.arange(31, dtype=np.uint32)])
    return _tables(columns)


def _tables(columns: Checksums) -> Tables:
    """Tables of the linear function whose values for the single bits are `columns`."""
    tables = np.zeros((4, 256), np.uint32)
    byte = np.arange(256)
    for place in range(4):
        for bit in range(8):
            tables[place][byte >> bit & 1 == 1] ^= columns[8 * place + bit]
    return tables
