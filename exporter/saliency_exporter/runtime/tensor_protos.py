"""Arrays to TensorProto and back, with TensorFlow Serving's rules and both of its answer encodings."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from saliency_client._varints import bytes_field, written_varint

Encoding = Literal["fields", "tensor_content"]
Piece = bytes | memoryview

# A message may leave values out: the runtime repeats the last one. What it would make up stays bounded, so
# that a hundred bytes on the wire cannot ask for gigabytes.
MAX_FILLED_BYTES = 64 << 20

# DT_FLOAT_REF and its like are types of variables, not of values.
_LAST_VALUE_DTYPE = 100

_FIELDS = tensor_pb2.TensorProto.DESCRIPTOR.fields_by_name
_CONTENT = _FIELDS["tensor_content"].number
# On the wire a packed field of floats is their bytes.
_PACKED_FIELDS = {
    np.dtype(np.float32): _FIELDS["float_val"].number,
    np.dtype(np.float64): _FIELDS["double_val"].number,
}


def to_array(proto: tensor_pb2.TensorProto) -> np.ndarray:
    """Decodes as TensorFlow's Tensor::FromProto does: content, else the typed field, its last value repeated.

    Strings become object arrays of bytes. The array may be read-only: it can share the message's memory.

    Raises:
        ValueError: the dtype is unknown, a dimension is negative, or the content does not fill the shape.
    """
    try:
        dtype = tf.dtypes.as_dtype(proto.dtype)
    except TypeError:
        dtype = None
    if dtype is None or proto.dtype > _LAST_VALUE_DTYPE:
        raise ValueError(f"no values of dtype {proto.dtype}")
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0 or len(shape) > 254:
        raise ValueError("the shape is not fully defined")
    if dtype.is_numpy_compatible and dtype != tf.string and proto.tensor_content:
        return np.frombuffer(proto.tensor_content, dtype.as_numpy_dtype).reshape(shape)
    serialized = proto.SerializeToString()
    if math.prod(shape) * dtype.size > MAX_FILLED_BYTES + 16 * len(serialized):
        raise ValueError(f"{len(serialized)} bytes cannot stand for shape {shape}")
    try:
        with tf.device("CPU:0"):
            return np.asarray(tf.io.parse_tensor(serialized, dtype).numpy(), dtype.as_numpy_dtype)
    except (tf.errors.OpError, TypeError) as error:
        raise ValueError(str(error)) from error


def to_proto(array: np.ndarray, encoding: Encoding = "tensor_content") -> tensor_pb2.TensorProto:
    """Encodes as TensorFlow Serving answers: typed fields (its default) or tensor_content.

    Under "tensor_content" strings too go into the content, as TensorFlow writes them there: the lengths as
    varints, then the bytes (tensorflow/core/framework/tensor.cc, Helper<tstring>::Encode). tf.make_ndarray
    cannot read that; `to_array` can.
    """
    return tensor_pb2.TensorProto.FromString(b"".join(serialized(array, encoding)))


def serialized(array: np.ndarray, encoding: Encoding) -> list[Piece]:
    """A TensorProto as `to_proto` encodes it, serialized, in pieces that follow each other.

    Numbers that lie in memory as on the wire are a view of the array: a message is put together with one copy
    of them, where protobuf makes up to four.
    """
    array = np.asarray(array)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    dtype = tf.string if array.dtype.kind in "OSU" else tf.dtypes.as_dtype(array.dtype)
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if dtype == tf.string:
        strings = [tf.compat.as_bytes(value) for value in array.reshape(-1).tolist()]
        if encoding == "tensor_content":
            lengths = [written_varint(len(value)) for value in strings]
            proto.tensor_content = b"".join([*lengths, *strings])
        else:
            proto.string_val.extend(strings)
        return [proto.SerializeToString()]
    number = _CONTENT if encoding == "tensor_content" else _PACKED_FIELDS.get(array.dtype)
    if number is None:
        _fill_typed_field(proto, array)
    elif array.size:
        return [proto.SerializeToString(), *bytes_field(number, [_wire_bytes(array)])]
    return [proto.SerializeToString()]


def _wire_bytes(array: np.ndarray) -> memoryview:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def _fill_typed_field(proto: tensor_pb2.TensorProto, array: np.ndarray) -> None:
    values = array.reshape(-1)
    match array.dtype.name:
        case "int64":
            proto.int64_val.extend(values.tolist())
        case "uint32":
            proto.uint32_val.extend(values.tolist())
        case "uint64":
            proto.uint64_val.extend(values.tolist())
        case "bool":
            proto.bool_val.extend(values.tolist())
        case "float16" | "bfloat16":
            proto.half_val.extend(values.view(np.uint16).tolist())
        case "complex64":
            proto.scomplex_val.extend(values.view(np.float32).tolist())
        case "complex128":
            proto.dcomplex_val.extend(values.view(np.float64).tolist())
        case _:
            proto.int_val.extend(values.tolist())
