"""A message's tensors, put into its bytes with one copy and found in them without one.

protobuf copies a message twice on the way to an array: out of the received bytes when it parses, and out of
its own memory when a field is read. So the fields that hold an array's bytes are cut out before it parses,
and everything else is left to it. On the way out it would copy an array up to four times.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from saliency_client._proto import saliency_client_tfs_pb2 as tfs
from saliency_client._varints import BYTES, bytes_field, varint

_VARINT, _FIXED64, _FIXED32 = 0, 1, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}

_INPUTS = tfs.PredictRequest.DESCRIPTOR.fields_by_name["inputs"].number
_OUTPUTS = tfs.PredictResponse.DESCRIPTOR.fields_by_name["outputs"].number
_KEY, _VALUE = 1, 2  # of every map's entries
# The fields of TensorProto that are an array's bytes as they stand.
PAYLOAD_FIELDS = ("tensor_content", "float_val", "double_val", "scomplex_val", "dcomplex_val")
_PAYLOADS = {tfs.TensorProto.DESCRIPTOR.fields_by_name[name].number: name for name in PAYLOAD_FIELDS}


@dataclass
class WireTensor:
    """A TensorProto without its payload, and the payload's runs of bytes by field, in the answer's memory."""

    proto: tfs.TensorProto
    payload: Mapping[str, list[memoryview]] = field(default_factory=dict)


def join_request(request: tfs.PredictRequest, inputs: Mapping[str, Sequence[bytes | memoryview]]) -> bytes:
    """The serialized request with these inputs, each a serialized TensorProto in pieces."""
    pieces: list[bytes | memoryview] = [request.SerializeToString()]
    for name, tensor in inputs.items():
        entry = [*bytes_field(_KEY, [name.encode()]), *bytes_field(_VALUE, tensor)]
        pieces += bytes_field(_INPUTS, entry)
    return b"".join(pieces)


def split_answer(answer: bytes) -> tuple[tfs.PredictResponse, dict[str, WireTensor]]:
    """A PredictResponse without its outputs, and its outputs by name.

    Raises:
        DecodeError: the bytes are no such message, or are cut short.
    """
    rest = bytearray()
    outputs = {}
    for number, kind, whole, value in _fields(memoryview(answer)):
        if (number, kind) == (_OUTPUTS, BYTES):
            name, tensor = _entry(value)
            outputs[name] = tensor
        else:
            rest += whole
    return tfs.PredictResponse.FromString(bytes(rest)), outputs


def _entry(entry: memoryview) -> tuple[str, WireTensor]:
    name = ""
    proto = bytearray()
    payload: dict[str, list[memoryview]] = {}
    for number, kind, _, value in _fields(entry):
        if (number, kind) == (_KEY, BYTES):
            name = _text(value)
        elif (number, kind) == (_VALUE, BYTES):
            for number, kind, whole, run in _fields(value):
                if number in _PAYLOADS and kind == BYTES:
                    payload.setdefault(_PAYLOADS[number], []).append(run)
                else:
                    proto += whole
    return name, WireTensor(tfs.TensorProto.FromString(bytes(proto)), payload)


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview, memoryview]]:
    """Number, wire type, the field as it stands, and its value, of each field of a message."""
    at = 0
    while at < len(message):
        start = at
        tag, at = varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            begin, (_, at) = at, varint(message, at)
        elif kind == BYTES:
            size, begin = varint(message, at)
            at = begin + size
        elif kind in _FIXED_SIZES:
            begin, at = at, at + _FIXED_SIZES[kind]
        else:
            raise DecodeError(f"wire type {kind}")
        if number == 0 or at > len(message):
            raise DecodeError("the message is cut short")
        yield number, kind, message[start:at], message[begin:at]


def _text(value: memoryview) -> str:
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError("a name is not UTF-8") from error
