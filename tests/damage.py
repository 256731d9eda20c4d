"""Damage to .rdc files, for tests of what decoders make of it."""

from __future__ import annotations

import google_crc32c

from rdeic_rt import container

CRC_BYTES = 4


def header_bytes(data: bytes) -> int:
    """Return the number of bytes before the first section of a whole file."""
    file = container.parse(data)
    return len(data) - CRC_BYTES - len(file.z) - len(file.y)


def flipped(data: bytes, bit: int) -> bytes:
    """Return the bytes with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def resealed(data: bytes) -> bytes:
    """Return the bytes with a checksum that fits, as an attacker would write them."""
    body = data[:-CRC_BYTES]
    return body + int(google_crc32c.value(body)).to_bytes(CRC_BYTES, "little")
