"""Requests put together and answers taken apart by hand agree with protobuf."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorflow import make_ndarray
from tensorflow_serving.apis import predict_pb2

from saliency_client import Explanation
from saliency_client._errors import AnswerError
from saliency_client._proto import saliency_client_tfs_pb2 as tfs
from saliency_client._requests import Request, parse_answer
from saliency_client._signatures import Signature, TensorSpec
from saliency_client._tensors import serialized
from saliency_client._wire import PAYLOAD_FIELDS, join_request, split_answer

SHAPE = (2, 40, 30, 3)
UTF_8 = st.characters(codec="utf-8")
SPECS = {
    "gradients": TensorSpec("gradients", "float32", (None, *SHAPE[1:])),
    "label": TensorSpec("label", "string", (None,)),
    "score": TensorSpec("score", "float32", (None,)),
}
REQUEST = Request(b"", Signature("explain_gradients", {}, SPECS), tuple(SPECS), SHAPE[0])
GRADIENTS = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def answer(*, typed: bool, padding: int = 0) -> bytes:
    """An answer of TensorFlow Serving's official message; padding moves everything behind it."""
    response = predict_pb2.PredictResponse()
    response.model_spec.name = "m" * padding
    response.model_spec.version.value = 7
    gradients = response.outputs["gradients"]
    gradients.dtype = 1
    for size in SHAPE:
        gradients.tensor_shape.dim.add(size=size)
    if typed:
        gradients.float_val.extend(GRADIENTS.ravel().tolist())
    else:
        gradients.tensor_content = GRADIENTS.tobytes()
    score = response.outputs["score"]
    score.dtype = 1
    score.tensor_shape.dim.add(size=2)
    score.float_val.extend([1.5, -2.0])
    label = response.outputs["label"]
    label.dtype = 7
    label.tensor_shape.dim.add(size=2)
    label.string_val.extend([b"cat", "Hündin".encode()])
    return response.SerializeToString()


@given(
    st.dictionaries(st.text(UTF_8, max_size=200), st.binary(max_size=300), max_size=4),
    st.lists(st.text(UTF_8, max_size=20), max_size=3),
)
@example({"n" * 200: bytes(300)}, ["o" * 200])
@settings(max_examples=100, deadline=None)
def test_a_request_is_the_official_message(inputs, output_filter):
    arrays = {name: np.frombuffer(value, np.uint8) for name, value in inputs.items()}
    arrays["p"] = np.arange(90, dtype=np.float32).reshape(9, 10)
    request = tfs.PredictRequest(model_spec={"name": "m", "signature_name": "s"}, output_filter=output_filter)

    message = join_request(request, {name: serialized(array) for name, array in arrays.items()})

    official = predict_pb2.PredictRequest.FromString(message)
    assert (official.model_spec.name, official.model_spec.signature_name) == ("m", "s")
    assert list(official.output_filter) == output_filter
    assert set(official.inputs) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(make_ndarray(official.inputs[name]), array, strict=True)


@pytest.mark.parametrize("typed", [True, False], ids=["typed fields", "tensor_content"])
@pytest.mark.parametrize("padding", range(4))
def test_maps_are_read_only_views_of_the_received_bytes_wherever_they_begin(typed, padding):
    received = answer(typed=typed, padding=padding)

    gradients = parse_answer(received, REQUEST).outputs["gradients"]

    np.testing.assert_array_equal(gradients, GRADIENTS)
    assert np.shares_memory(gradients, np.frombuffer(received, np.uint8))
    assert not gradients.flags.writeable
    assert not gradients.flags.owndata


def test_a_small_output_does_not_keep_the_answer_in_memory():
    received = answer(typed=True)

    score = parse_answer(received, REQUEST).outputs["score"]

    assert score.tolist() == [1.5, -2.0]
    assert not np.shares_memory(score, np.frombuffer(received, np.uint8))


def test_text_is_decoded_when_it_is_first_read_and_once():
    reads = []

    class Watched(bytes):
        def decode(self, *arguments):
            reads.append(bytes(self))
            return super().decode(*arguments)

    labels = np.array([Watched(b"cat"), Watched(b"dog")], object)
    explanation = Explanation({"label": labels}, method="gradients", model="m")
    one = explanation[1]
    assert reads == []

    assert one.label.tolist() == ["dog"]
    assert one.label is one.label
    assert reads == [b"dog"]


def test_every_place_to_cut_an_answer_short_is_an_error():
    received = answer(typed=False)
    whole = len(received) - len(b"\x12\x04\x12\x02\x08\x07")  # what tells the version may be missing
    for cut in (*range(200), *range(whole - 200, whole), *range(whole + 1, len(received))):
        with pytest.raises(AnswerError):
            parse_answer(received[:cut], REQUEST)


numbers = st.floats(width=32, allow_nan=False)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.integers(0, 23),
        "tensor_content": st.binary(max_size=40),
        "float_val": st.lists(numbers, max_size=5),
        "double_val": st.lists(numbers, max_size=5),
        "int_val": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
        "string_val": st.lists(st.binary(max_size=5), max_size=3),
        "scomplex_val": st.lists(numbers, max_size=4),
    },
)


@given(
    outputs=st.dictionaries(st.text(max_size=5), tensors, max_size=4),
    version=st.integers(0, 2**40),
    unknown=st.sampled_from(
        [b"", b"\x98\x06\x01", b"\x9a\x06\x02ab", b"\xa1\x06" + bytes(8), b"\xa5\x06abcd"]
    ),
)
@settings(max_examples=150, deadline=None)
def test_it_agrees_with_protobuf_on_any_message(outputs, version, unknown):
    message = predict_pb2.PredictResponse()
    message.model_spec.version.value = version
    for name, fields in outputs.items():
        for field, value in fields.items():
            if isinstance(value, list):
                getattr(message.outputs[name], field).extend(value)
            else:
                setattr(message.outputs[name], field, value)
        message.outputs[name].tensor_shape.dim.add(size=len(fields))

    rest, tensors = split_answer(message.SerializeToString() + unknown)

    assert rest.model_spec.version.value == version
    assert set(tensors) == set(message.outputs)
    for name, tensor in tensors.items():
        official = message.outputs[name]
        assert tensor.proto.dtype == official.dtype
        assert [dim.size for dim in tensor.proto.tensor_shape.dim] == [len(outputs[name])]
        assert list(tensor.proto.int_val) == list(official.int_val)
        assert list(tensor.proto.string_val) == list(official.string_val)
        assert not any(getattr(tensor.proto, field) for field in PAYLOAD_FIELDS)
        runs = {field: b"".join(run) for field, run in tensor.payload.items()}
        assert runs.get("tensor_content", b"") == official.tensor_content
        for field, dtype in (("float_val", "<f4"), ("double_val", "<f8"), ("scomplex_val", "<f4")):
            np.testing.assert_array_equal(
                np.frombuffer(runs.get(field, b""), dtype), np.array(getattr(official, field), dtype)
            )


@given(st.binary(max_size=60))
@example(b"\x0b")  # the start of a group
@example(b"\x00\x00")  # field 0
@example(b"\x08" + b"\xff" * 11)  # a number of more than 64 bits
@example(b"\x0a\x04\x0a\x02\xff\xff")  # a name that is not UTF-8
@settings(max_examples=300, deadline=None)
def test_noise_is_an_answer_or_a_decode_error(noise):
    with contextlib.suppress(DecodeError):
        split_answer(noise)


def test_a_message_that_comes_in_pieces_is_put_together_as_protobuf_does():
    one, other = predict_pb2.PredictResponse(), predict_pb2.PredictResponse()
    one.outputs["x"].float_val.extend([1, 2])
    other.outputs["x"].float_val.extend([3])
    received = one.SerializeToString() + other.SerializeToString()

    _, tensors = split_answer(received)

    official = predict_pb2.PredictResponse.FromString(received).outputs["x"]
    official.dtype = 1
    official.tensor_shape.dim.add(size=1)
    assert make_ndarray(official).tolist() == [3.0]
    assert np.frombuffer(b"".join(tensors["x"].payload["float_val"]), "<f4").tolist() == [3.0]
