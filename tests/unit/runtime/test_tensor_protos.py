"""The codec against TensorFlow's own C++ parser and writer."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.framework import tensor_pb2

from saliency_exporter.runtime.tensor_protos import to_array, to_proto

NUMBERS = [
    "float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "bool", "complex64", "complex128",
]  # fmt: skip
ENCODINGS = ["fields", "tensor_content"]


def tensorflow_reads(proto: tensor_pb2.TensorProto) -> np.ndarray:
    return np.asarray(tf.io.parse_tensor(proto.SerializeToString(), proto.dtype).numpy())


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(
    array=st.sampled_from(NUMBERS).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=5))
    )
)
@settings(max_examples=150, deadline=None)
def test_TensorFlow_reads_back_what_was_encoded(encoding, array):
    proto = to_proto(array, encoding)
    assert bool(proto.tensor_content) == (encoding == "tensor_content" and array.size > 0)
    np.testing.assert_array_equal(tensorflow_reads(proto), array, strict=True)
    np.testing.assert_array_equal(to_array(proto), array, strict=True)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", ">i4", ">u8", ">c8", "<f4"])
def test_how_an_array_lies_in_memory_does_not_matter(encoding, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype).transpose(2, 0, 1)[::-1]
    read = to_array(to_proto(array, encoding))
    np.testing.assert_array_equal(read, array.astype(array.dtype.newbyteorder("=")), strict=True)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bfloat16_passes(encoding):
    array = np.array([1.5, -2.0, np.inf], ml_dtypes.bfloat16)
    assert tensorflow_reads(to_proto(array, encoding)).tobytes() == array.tobytes()
    assert to_array(to_proto(array, encoding)).tobytes() == array.tobytes()


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(st.lists(st.binary(max_size=300), max_size=6))
@settings(max_examples=60, deadline=None)
def test_strings_are_encoded_as_TensorFlow_encodes_them(encoding, strings):
    array = np.array(strings, object)
    proto = to_proto(array, encoding)
    assert tensorflow_reads(proto).tolist() == strings
    assert to_array(proto).tolist() == strings


@pytest.mark.parametrize(
    ("values", "shape", "expected"),
    [
        ([1.0], [3], [1, 1, 1]),
        ([1.0, 2.0], [4], [1, 2, 2, 2]),
        ([], [2], [0, 0]),
        ([1.0, 2.0, 3.0], [2], [1, 2]),
    ],
)
def test_values_left_out_repeat_the_last_one_and_surplus_ones_are_dropped(values, shape, expected):
    proto = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum, float_val=values)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    assert to_array(proto).tolist() == expected


@pytest.mark.parametrize("dtype", [0, 999, tf.resource.as_datatype_enum, tf.float32.as_datatype_enum + 100])
def test_a_dtype_that_holds_no_values_is_an_error(dtype):
    proto = tensor_pb2.TensorProto(tensor_content=b"1234")
    proto.dtype = dtype
    with pytest.raises(ValueError, match=r"dtype|parse"):
        to_array(proto)


def test_a_few_bytes_cannot_ask_for_gigabytes():
    proto = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum, float_val=[0.0])
    proto.tensor_shape.dim.add(size=1 << 29)
    with pytest.raises(ValueError, match="cannot stand for shape"):
        to_array(proto)
