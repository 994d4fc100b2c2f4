"""Arrays to TensorProto and back, without a loop over the elements.

Sending uses `tensor_content`. Receiving takes both encodings that servers use: `tensor_content`, and the
typed fields (`float_val`, `int_val`, …) that TensorFlow Serving answers with unless told otherwise.
No shape that a message claims makes the decoder allocate more than the bytes that came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from saliency_client._errors import AnswerError, InputError
from saliency_client._proto import saliency_client_tfs_pb2 as tfs
from saliency_client._varints import bytes_field, varint

Array = npt.NDArray[Any]

# TensorFlow's name: (DataType number, numpy dtype on the wire, typed field). The wire is little-endian.
_DTYPES: dict[str, tuple[tfs.DataType, str, str]] = {
    "float32": (tfs.DT_FLOAT, "<f4", "float_val"),
    "float64": (tfs.DT_DOUBLE, "<f8", "double_val"),
    "int32": (tfs.DT_INT32, "<i4", "int_val"),
    "uint8": (tfs.DT_UINT8, "|u1", "int_val"),
    "int16": (tfs.DT_INT16, "<i2", "int_val"),
    "int8": (tfs.DT_INT8, "|i1", "int_val"),
    "string": (tfs.DT_STRING, "|O", "string_val"),
    "complex64": (tfs.DT_COMPLEX64, "<c8", "scomplex_val"),
    "int64": (tfs.DT_INT64, "<i8", "int64_val"),
    "bool": (tfs.DT_BOOL, "|b1", "bool_val"),
    "uint16": (tfs.DT_UINT16, "<u2", "int_val"),
    "complex128": (tfs.DT_COMPLEX128, "<c16", "dcomplex_val"),
    "float16": (tfs.DT_HALF, "<f2", "half_val"),
    "uint32": (tfs.DT_UINT32, "<u4", "uint32_val"),
    "uint64": (tfs.DT_UINT64, "<u8", "uint64_val"),
}
_NAMES: dict[int, str] = {number: name for name, (number, _, _) in _DTYPES.items()}
_CONTENT = tfs.TensorProto.DESCRIPTOR.fields_by_name["tensor_content"].number
_BYTE_FIELDS = ("float_val", "double_val", "scomplex_val", "dcomplex_val")
_FILL_LIMIT = 65_536
# A view keeps the whole answer in memory. Who keeps a score should not keep all maps for it.
_SMALLEST_VIEW = 4096


def dtype_name(number: int) -> str:
    """TensorFlow's name of a DataType number, as in 'float32' or 'string'; 'DT_<n>' for one unknown here."""
    if number == tfs.DT_BFLOAT16:
        return "bfloat16"
    return _NAMES.get(number, f"DT_{number}")


def serialized(array: Array) -> list[bytes | memoryview]:
    """A serialized TensorProto that holds `array`, in pieces that follow each other.

    Numbers that lie in memory as on the wire are a view of the array.

    `array` may have any dtype that TensorFlow Serving takes and any shape. Strings may be an array of str, of
    bytes, or of objects of either; str goes as UTF-8.

    Raises:
        InputError: the dtype has no TensorFlow equivalent, such as datetime64, or an object is not text.
    """
    shape = _shape_proto(array.shape)
    if array.dtype.kind in "OSU":
        strings = tfs.TensorProto(dtype=tfs.DT_STRING, tensor_shape=shape, string_val=_texts(array))
        return [strings.SerializeToString()]
    name = array.dtype.name
    if name not in _DTYPES:
        raise InputError(f"an array of {name} cannot be sent; TensorFlow Serving has no such dtype here")
    number, wire, _ = _DTYPES[name]
    head = tfs.TensorProto(dtype=number, tensor_shape=shape).SerializeToString()
    if array.size == 0:
        return [head]
    content = np.ascontiguousarray(array.astype(wire, copy=False)).reshape(-1).view(np.uint8)
    return [head, *bytes_field(_CONTENT, [content.data])]


def _texts(array: Array) -> list[bytes]:
    values = []
    for value in array.ravel().tolist():
        if not isinstance(value, (str, bytes)):
            raise InputError(
                f"an array of objects can be sent only if all are text, not {type(value).__name__}"
            )
        values.append(value.encode() if isinstance(value, str) else value)
    return values


def _shape_proto(shape: Sequence[int]) -> tfs.TensorShapeProto:
    return tfs.TensorShapeProto(dim=[tfs.TensorShapeProto.Dim(size=size) for size in shape])


def decode(
    proto: tfs.TensorProto,
    name: str,
    *,
    payload: Mapping[str, Sequence[memoryview]] | None = None,
    fill: bool = False,
) -> Array:
    """The array that a TensorProto holds; numbers are read-only.

    Numbers of 4 KiB and more are a view of the payload, wherever in the answer it begins, so that they may be
    unaligned, which costs NumPy next to nothing. Strings come as an object array of bytes.

    `name` is for the error's words. `payload` has the runs of bytes of the fields that `_wire.PAYLOAD_FIELDS`
    names, where they were cut out of the message; None: the message has them itself. With `fill`, fewer
    values than the shape holds are completed by repeating the last, as TensorFlow does in constants and
    defaults, up to 64 KiB; without it they are an error, because no server shortens an answer.

    Raises:
        AnswerError: the values do not match the shape or the dtype.
    """
    dtype = dtype_name(proto.dtype)
    if dtype not in _DTYPES:
        raise AnswerError(f"{name!r} has dtype {dtype}, which this client cannot decode")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise AnswerError(f"{name!r} claims the impossible shape {list(shape)}")
    count = math.prod(shape)
    values = _values(proto, payload, dtype, name, count)
    if fill and values.size < count:
        values = _filled(values, count, name)
    if values.size != count:
        raise AnswerError(
            f"{name!r} claims shape {list(shape)}, which is {count} values, but holds {values.size}",
            hint="the answer was cut short, or the server is not a TensorFlow Serving",
        )
    try:
        return values.reshape(shape)
    except ValueError as error:  # too many dimensions, or sizes beyond the address space beside a zero
        raise AnswerError(f"{name!r} claims the impossible shape {list(shape)[:8]}") from error


def _values(
    proto: tfs.TensorProto,
    payload: Mapping[str, Sequence[memoryview]] | None,
    dtype: str,
    name: str,
    count: int,
) -> Array:
    """The values of either encoding, flat."""
    _, wire, field = _DTYPES[dtype]
    # Of a field that is not repeated, the last one counts.
    content = proto.tensor_content if payload is None else payload.get("tensor_content", [b""])[-1]
    if content:
        if dtype == "string":
            return _strings_of_content(bytes(content), count, name)
        return _from_bytes(content, wire, name)
    if field in _BYTE_FIELDS:
        runs = getattr(proto, field) if payload is None else payload.get(field, [])
        return _from_bytes(runs[0] if len(runs) == 1 else b"".join(runs), wire, name)
    typed = getattr(proto, field)
    if dtype == "string":
        return _objects(typed)
    if dtype == "float16":
        return _integers(typed, np.dtype("<u2"), name).view(wire)
    return _integers(typed, np.dtype(wire), name)


def _from_bytes(content: bytes | memoryview, wire: str, name: str) -> Array:
    dtype = np.dtype(wire)
    if len(content) % dtype.itemsize:
        raise AnswerError(f"{name!r} holds {len(content)} bytes, not a whole number of {dtype.name} values")
    if dtype.kind == "b" and bytes(content).translate(None, b"\x00\x01"):
        raise AnswerError(f"{name!r} holds bytes that are not booleans")
    return np.frombuffer(content if len(content) >= _SMALLEST_VIEW else bytes(content), dtype)


def _integers(values: Any, dtype: np.dtype[Any], name: str) -> Array:
    if dtype.kind == "b" or dtype.itemsize == 8 or not values:
        array = np.array(values, dtype)
    else:
        wide = np.array(values, np.int64)
        array = wide.astype(dtype)
        if not np.array_equal(array, wide):
            raise AnswerError(f"{name!r} holds values outside the range of {dtype.name}")
    array.flags.writeable = False
    return array


def _objects(values: Sequence[bytes]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = list(values)
    array.flags.writeable = False
    return array


def _strings_of_content(content: bytes, count: int, name: str) -> Array:
    """TensorFlow's layout of strings in tensor_content: all lengths as varints, then all characters."""
    sizes, at = [], 0
    if count > len(content):  # each string has at least one byte of length
        raise AnswerError(f"{name!r} claims {count} strings in {len(content)} bytes")
    try:
        for _ in range(count):
            size, at = varint(content, at)
            sizes.append(size)
    except DecodeError as error:
        raise AnswerError(f"{name!r} holds a broken list of text lengths") from error
    if at + sum(sizes) != len(content):
        raise AnswerError(
            f"{name!r} holds {len(content) - at} bytes of text where its lengths say {sum(sizes)}"
        )
    values = []
    for size in sizes:
        values.append(content[at : at + size])
        at += size
    return _objects(values)


def _filled(values: Array, count: int, name: str) -> Array:
    if count * values.dtype.itemsize > _FILL_LIMIT:
        raise AnswerError(f"{name!r} claims {count} values but holds {values.size}")
    filled = np.zeros(count, values.dtype) if values.size == 0 else np.full(count, values[-1], values.dtype)
    if values.dtype.kind == "O" and values.size == 0:
        filled[:] = b""
    filled[: values.size] = values
    return filled
