"""Numbers and fields of bytes as protobuf writes them, for the client and for the exporter's server.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError

BYTES = 2
"""The wire type of bytes and messages."""


def bytes_field(number: int, content: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """A field of bytes, or of a message, as protobuf writes it: its tag, its length, its content."""
    return [written_varint(number << 3 | BYTES) + written_varint(sum(map(len, content))), *content]


def varint(message: bytes | memoryview, at: int) -> tuple[int, int]:
    """The number that is written from position `at` on, seven bits a byte, and the position after it.

    Raises:
        DecodeError: it is cut short, or longer than the ten bytes that 64 bits take.
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise DecodeError("a number is cut short")


def written_varint(number: int) -> bytes:
    """A number as `varint` reads it."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
