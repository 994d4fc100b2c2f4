"""What a server refuses, and how: TensorFlow Serving's table, and the exported model's own bounds."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def test_an_unknown_model(server):
    request = server.request("", {"images": server.images(1)})
    request.model_spec.name = "nobody"
    assert server.refusal(server.predict_stub, request) == (
        NOT_FOUND,
        "Servable not found for request: Latest(nobody)",
    )


def test_an_unknown_version(server):
    request = server.request("", {"images": server.images(1)})
    request.model_spec.version.value = 987654
    assert server.refusal(server.predict_stub, request) == (
        NOT_FOUND,
        f"Servable not found for request: Specific({server.model}, 987654)",
    )


def test_an_unknown_label(server):
    request = server.request("", {"images": server.images(1)})
    request.model_spec.version_label = "no-such-label"
    assert server.refusal(server.predict_stub, request) == (
        INVALID,
        "Unrecognized servable version label: no-such-label",
    )


def test_no_model_spec(server):
    assert server.refusal(server.predict_stub, predict_pb2.PredictRequest()) == (INVALID, "Missing ModelSpec")
    assert server.refusal(server.status_stub, get_model_status_pb2.GetModelStatusRequest()) == (
        INVALID,
        "Missing ModelSpec",
    )


def test_an_unknown_signature(server):
    assert server.refused("explain_nothing", images=server.images(1)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "explain_nothing" not found.',
    )


def test_no_inputs_at_all_where_there_are_no_defaults(server):
    code, message = server.refused("serving_default")
    assert code is INVALID
    assert message.startswith("input size does not match signature: 0!=1 len({}) != len({images}).")
    assert "Missing but required: {images}" in message


def test_a_surplus_input(server):
    code, message = server.refused("serving_default", images=server.images(1), pictures=server.images(1))
    assert code is INVALID
    assert "Sent extra: {pictures}" in message


def test_a_missing_input_without_a_default(server):
    code, message = server.refused("explain_gradients", class_index=np.zeros(1, np.int32))
    assert code is INVALID
    assert message.startswith("Signature input alias: images(feed name: ")
    assert "not found in request and no default value provided" in message


def test_a_misspelt_parameter(server):
    code, message = server.refused("explain_gradients", images=server.images(1), klass=np.zeros(1, np.int32))
    assert code is INVALID
    assert message.startswith("Inputs contains invalid name.")


def test_an_unknown_output(server):
    code, message = server.refused("explain_gradients", outputs=("heatmap",), images=server.images(1))
    assert code is INVALID
    assert message.startswith("output tensor alias not found in signature: heatmap")


def test_an_output_twice(server):
    assert server.refused("serving_default", outputs=("logits", "logits"), images=server.images(1)) == (
        INVALID,
        "duplicate output tensor alias: logits",
    )


def test_a_wrong_dtype(server):
    code, _ = server.refused("serving_default", images=server.images(1).astype(np.float64))
    assert code is INVALID


def test_a_wrong_image_size(server):
    height, width, channels = server.image_shape()
    images = np.zeros((1, height + 1, width, channels), server.images(1).dtype)
    code, _ = server.refused("explain_gradients", images=images)
    assert code is INVALID


@pytest.mark.parametrize(("shape", "content"), [((2, 2), b"123"), ((-1,), b""), ((1 << 62, 8), b"")])
def test_a_tensor_that_cannot_be(server, shape, content):
    request = server.request("serving_default", {"images": server.images(1)})
    tensor = request.inputs["images"]
    tensor.ClearField("tensor_shape")
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = content
    assert server.refusal(server.predict_stub, request) == (INVALID, "tensor parsing error: images")


def test_a_class_that_the_model_does_not_have(server):
    code, message = server.refused(
        "explain_gradients", images=server.images(1), class_index=np.array([1 << 30], np.int32)
    )
    assert code is INVALID
    assert "class_index is 1073741824" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_samples", np.int32(0)),
        ("num_samples", np.int32(1 << 30)),
        ("noise_level", np.float32(-0.1)),
        ("noise_level", np.float32(1.5)),
        ("noise_level", np.float32(np.nan)),
    ],
)
def test_a_parameter_out_of_its_bounds_is_named(server, name, value):
    if "explain_smooth" not in server.signatures:
        pytest.skip("the model has no explain_smooth")
    inputs = {
        "class_index": np.zeros(1, np.int32),
        "num_samples": np.full(1, 2, np.int32),
        "noise_level": np.zeros(1, np.float32),
        "seed": np.zeros(1, np.int32),
    }
    inputs[name] = np.array([value])
    code, message = server.refused("explain_smooth", images=server.images(1), **inputs)
    assert code is INVALID
    assert name in message


def test_parameters_for_another_number_of_images(server):
    code, message = server.refused(
        "explain_gradients", images=server.images(3), class_index=np.zeros(2, np.int32)
    )
    assert code is INVALID
    assert "class_index" in message or "0th-dimension" in message


def test_no_images(server):
    code, _ = server.refused("explain_gradients", images=server.images(0))
    assert code is INVALID


def test_the_status_of_an_unknown_model_and_version(server):
    assert server.refusal(server.status_stub, server.status_request("nobody")) == (
        NOT_FOUND,
        "Could not find any versions of model nobody",
    )
    assert server.refusal(server.status_stub, server.status_request(server.model, 987654)) == (
        NOT_FOUND,
        f"Could not find version 987654 of model {server.model}",
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((), "GetModelMetadataRequest must specify at least one metadata_field"),
        (("weights",), "Metadata field weights is not supported"),
    ],
)
def test_metadata_that_the_server_does_not_have(server, fields, message):
    request = server.metadata_request(server.model, *fields)
    assert server.refusal(server.metadata_stub, request) == (INVALID, message)


def test_the_metadata_of_an_unknown_model(server):
    assert server.refusal(server.metadata_stub, server.metadata_request("nobody", "signature_def")) == (
        NOT_FOUND,
        "Servable not found for request: Latest(nobody)",
    )
