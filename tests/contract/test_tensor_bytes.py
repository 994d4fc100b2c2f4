"""Arrays through the client's codec and TensorFlow's own, both ways, in both encodings of a tensor."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import get_model_metadata_pb2

from saliency_client._errors import AnswerError
from saliency_client._proto import saliency_client_tfs_pb2 as tfs
from saliency_client._signatures import parse_metadata
from saliency_client._tensors import decode, serialized

NUMBERS = [
    "float16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128",
]  # fmt: skip
SHAPES = [(), (1,), (0,), (5,), (2, 3, 4), (2, 0, 3)]
TYPED_FIELD = {
    "float16": "half_val", "float32": "float_val", "float64": "double_val",
    "int8": "int_val", "int16": "int_val", "int32": "int_val", "uint8": "int_val", "uint16": "int_val",
    "int64": "int64_val", "uint32": "uint32_val", "uint64": "uint64_val", "bool": "bool_val",
    "complex64": "scomplex_val", "complex128": "dcomplex_val",
}  # fmt: skip


def encode(array: np.ndarray) -> tfs.TensorProto:
    return tfs.TensorProto.FromString(b"".join(serialized(array)))


def example(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values over the dtype's whole range."""
    generator = np.random.default_rng(1)
    size = int(np.prod(shape))
    if dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    if np.dtype(dtype).kind in "iu":
        bounds = np.iinfo(dtype)
        return generator.integers(bounds.min, bounds.max, shape, dtype=dtype, endpoint=True)
    values = generator.normal(size=(size, 2))
    flat = values[:, 0] + 1j * values[:, 1] if np.dtype(dtype).kind == "c" else values[:, 0]
    return flat.reshape(shape).astype(dtype)


def official(array: np.ndarray, encoding: str) -> tensor_pb2.TensorProto:
    """TensorFlow's message for an array, in the encoding that a server may choose."""
    proto = tf.make_tensor_proto(array)
    if encoding == "tensor_content":
        proto.ClearField(TYPED_FIELD[array.dtype.name])
        proto.tensor_content = array.tobytes()
        return proto
    proto.ClearField("tensor_content")
    flat = array.ravel()
    if array.dtype.kind == "c":
        flat = flat.view(flat.real.dtype)
    elif array.dtype == np.float16:
        flat = flat.view(np.uint16)
    del getattr(proto, TYPED_FIELD[array.dtype.name])[:]
    getattr(proto, TYPED_FIELD[array.dtype.name]).extend(flat.tolist())
    return proto


def received(proto: tensor_pb2.TensorProto) -> np.ndarray:
    return decode(tfs.TensorProto.FromString(proto.SerializeToString()), "x")


@pytest.mark.parametrize("encoding", ["tensor_content", "typed field"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_client_reads_what_tensorflow_writes(dtype: str, shape: tuple[int, ...], encoding: str):
    array = example(dtype, shape)

    got = received(official(array, encoding))

    assert got.dtype == array.dtype
    assert got.shape == shape
    assert got.tobytes() == array.tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_tensorflow_reads_what_the_client_writes(dtype: str, shape: tuple[int, ...]):
    array = example(dtype, shape)
    written = encode(array).SerializeToString()

    in_python = tf.make_ndarray(tensor_pb2.TensorProto.FromString(written))
    in_server_code = tf.io.parse_tensor(written, tf.as_dtype(dtype)).numpy()

    for got in (in_python, in_server_code):
        assert got.dtype == array.dtype
        assert got.shape == shape
        assert got.tobytes() == array.tobytes()


@pytest.mark.parametrize("encoding", ["tensor_content", "typed field"])
@given(
    array=hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    )
)
@settings(max_examples=50, deadline=None)
def test_every_float_survives_nan_and_infinity_included(encoding: str, array: np.ndarray):
    got = received(official(array, encoding))

    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("dtype", [">f4", ">i4", ">u2", ">f8"])
def test_a_big_endian_array_is_sent_by_value(dtype: str):
    array = np.array([1, 2, 300], dtype)

    got = tf.io.parse_tensor(encode(array).SerializeToString(), tf.as_dtype(array.dtype.newbyteorder("=")))

    np.testing.assert_array_equal(got.numpy(), [1, 2, 300])


def test_a_strided_array_is_sent_in_its_own_order():
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)[:, ::2].transpose(2, 0, 1)

    got = tf.io.parse_tensor(encode(array).SerializeToString(), tf.float32).numpy()

    np.testing.assert_array_equal(got, array)


STRINGS = np.array([["", "Egyptian cat"], ["crème brûlée", "猫" * 100]], dtype=object)


@pytest.mark.parametrize(
    "array", [STRINGS, STRINGS.astype(str), np.char.encode(STRINGS.astype(str))], ids="OUS"
)
def test_tensorflow_reads_the_strings_that_the_client_writes(array: np.ndarray):
    got = tf.io.parse_tensor(encode(array).SerializeToString(), tf.string).numpy()

    assert [[value.decode() for value in row] for row in got] == STRINGS.tolist()


def varint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + varint(value >> 7)


@pytest.mark.parametrize("encoding", ["string_val", "tensor_content"])
def test_client_reads_strings_in_both_encodings_as_tensorflow_does(encoding: str):
    raw = [value.encode() for value in STRINGS.ravel()]
    proto = tf.make_tensor_proto(STRINGS)
    if encoding == "tensor_content":
        del proto.string_val[:]
        proto.tensor_content = b"".join(varint(len(value)) for value in raw) + b"".join(raw)
    in_server_code = tf.io.parse_tensor(proto.SerializeToString(), tf.string).numpy()

    got = received(proto)

    assert got.tolist() == in_server_code.tolist()
    assert [value.decode() for value in got.ravel()] == STRINGS.ravel().tolist()


@pytest.mark.parametrize("value", [np.float32(2.5), np.int32(-1), np.bool_(True), "tail"])
def test_a_default_that_tensorflow_shortened_is_filled_with_its_last_value(value):
    proto = tf.make_tensor_proto(value, shape=[2, 2])
    expected = tf.io.parse_tensor(proto.SerializeToString(), proto.dtype).numpy()

    got = decode(tfs.TensorProto.FromString(proto.SerializeToString()), "x", fill=True)

    assert got.tolist() == expected.tolist()


def test_a_shortened_default_is_filled_when_the_servers_metadata_is_read():
    signature = meta_graph_pb2.SignatureDef()
    signature.defaults["noise_level"].CopyFrom(tf.make_tensor_proto(0.5, shape=[3]))
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.metadata["signature_def"].Pack(
        get_model_metadata_pb2.SignatureDefMap(signature_def={"explain_smooth": signature})
    )

    metadata = parse_metadata(response.SerializeToString())

    assert metadata.signatures["explain_smooth"].defaults["noise_level"].tolist() == [0.5, 0.5, 0.5]


def test_a_shortened_tensor_is_an_error_in_an_answer():
    with pytest.raises(AnswerError, match=r"claims shape \[2, 2\], which is 4 values, but holds 1"):
        received(tf.make_tensor_proto(2.5, shape=[2, 2]))


def test_a_packed_field_that_came_in_two_runs_is_read_whole():
    first, second = official(np.array([1.0, 2.0], np.float32), "typed field"), tensor_pb2.TensorProto()
    second.float_val.extend([3.0])
    first.tensor_shape.dim[0].size = 3
    wire = first.SerializeToString() + second.SerializeToString()

    got = decode(tfs.TensorProto.FromString(wire), "x")

    assert got.tolist() == tf.make_ndarray(tensor_pb2.TensorProto.FromString(wire)).tolist() == [1, 2, 3]
