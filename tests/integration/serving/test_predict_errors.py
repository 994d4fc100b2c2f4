"""Every row of TensorFlow Serving's error table; the texts are those of its source."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving_models import predict_request
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

IMAGES = np.array([[1.0, 2.0]], np.float32)


def refused(call, request) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call(request, timeout=20)
    return raised.value.code(), raised.value.details()


def test_an_unknown_model_is_not_found(stubs):
    assert refused(stubs.predict, predict_request("nobody", images=IMAGES)) == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(nobody)",
    )


def test_an_unknown_version_is_not_found(stubs):
    request = predict_request("small", images=IMAGES)
    request.model_spec.version.value = 7
    assert refused(stubs.predict, request) == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Specific(small, 7)",
    )


def test_an_unknown_label_is_an_invalid_argument(stubs):
    request = predict_request("small", images=IMAGES)
    request.model_spec.version_label = "stable"
    assert refused(stubs.predict, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Unrecognized servable version label: stable",
    )


def test_a_request_without_a_model_spec_is_an_invalid_argument(stubs):
    assert refused(stubs.predict, predict_pb2.PredictRequest()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Missing ModelSpec",
    )


def test_a_request_without_a_model_name_is_an_invalid_argument(stubs):
    assert refused(stubs.predict, predict_request("", images=IMAGES)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "ModelSpec has no name specified.",
    )


def test_an_unknown_signature_is_a_failed_precondition(stubs):
    assert refused(stubs.predict, predict_request("small", "explain_all", images=IMAGES)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "explain_all" not found.',
    )


def test_too_few_inputs_without_defaults_say_which_are_missing(stubs):
    assert refused(stubs.predict, predict_request("small")) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "input size does not match signature: 0!=1 len({}) != len({images}). "
        "Sent extra: {}. Missing but required: {images}.",
    )


def test_too_many_inputs_say_which_are_extra(stubs):
    request = predict_request("small", images=IMAGES, pictures=IMAGES)
    assert refused(stubs.predict, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "input size does not match signature: 2!=1 len({images,pictures}) != len({images}). "
        "Sent extra: {pictures}. Missing but required: {}.",
    )


def test_a_missing_input_without_a_default_is_an_invalid_argument(stubs):
    request = predict_request("small", "explain", class_index=np.array([1], np.int32))
    assert refused(stubs.predict, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Signature input alias: images(feed name: explain_images:0) not found in request and no default "
        "value provided. Inputs expected to be in the request {class_index}, "
        "or default input alias set: class_index",
    )


def test_an_unknown_input_beside_a_default_is_an_invalid_argument(stubs):
    request = predict_request("small", "explain", images=IMAGES, klass=np.array([1], np.int32))
    assert refused(stubs.predict, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Inputs contains invalid name. Used request inputs: images, request input: images,klass",
    )


def test_an_unknown_output_is_an_invalid_argument(stubs):
    request = predict_request("small", images=IMAGES, outputs=["saliency"])
    assert refused(stubs.predict, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "output tensor alias not found in signature: saliency Outputs expected to be in the set "
        "{logits,probabilities}.",
    )


def test_an_output_asked_for_twice_is_an_invalid_argument(stubs):
    request = predict_request("small", images=IMAGES, outputs=["logits", "logits"])
    assert refused(stubs.predict, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "duplicate output tensor alias: logits",
    )


def test_a_wrong_dtype_is_refused_by_the_runtime_and_never_cast(stubs):
    code, message = refused(stubs.predict, predict_request("small", images=IMAGES.astype(np.float64)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "to be float but double is provided" in message


def test_a_wrong_shape_is_refused_by_the_runtime(stubs):
    code, message = refused(stubs.predict, predict_request("small", images=np.ones([1, 3], np.float32)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "Matrix size-incompatible: In[0]: [1,3], In[1]: [2,3]" in message


@pytest.mark.parametrize(
    ("dims", "content"),
    [((2, 2), b"1234"), ((-1,), b""), ((1 << 62, 8), b""), ((1 << 40,), b""), ((2**31,), b"1234")],
    ids=["content too short", "negative", "overflow", "terabytes", "gigabytes"],
)
def test_a_tensor_that_cannot_be_is_a_parsing_error(stubs, dims, content):
    request = predict_request("small")
    tensor = request.inputs["images"]
    tensor.dtype = tf.float32.as_datatype_enum
    tensor.tensor_content = content
    for dim in dims:
        tensor.tensor_shape.dim.add(size=dim)
    assert refused(stubs.predict, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "tensor parsing error: images",
    )


def test_a_message_is_cut_at_1024_characters(stubs):
    code, message = refused(stubs.predict, predict_request("small", "s" * 5000, images=IMAGES))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert message == 'Serving signature key "' + "s" * (1024 - 23) + "...TRUNCATED"


def test_an_answer_over_the_clients_limit_is_resource_exhausted(shared_server):
    default_limit = 4 << 20
    request = predict_request("small", "echo", block=np.zeros([1, default_limit // 4], np.float32))
    with grpc.insecure_channel(shared_server.target) as channel:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        code, message = refused(predict, request)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in message


def status_request(model: str, version: int | None = None) -> get_model_status_pb2.GetModelStatusRequest:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = version
    return request


def test_the_status_of_an_unknown_model_is_not_found(stubs):
    assert refused(stubs.status, status_request("nobody")) == (
        grpc.StatusCode.NOT_FOUND,
        "Could not find any versions of model nobody",
    )


def test_the_status_of_an_unknown_version_is_not_found(stubs):
    assert refused(stubs.status, status_request("small", 7)) == (
        grpc.StatusCode.NOT_FOUND,
        "Could not find version 7 of model small",
    )


def test_a_status_request_without_a_model_spec_is_an_invalid_argument(stubs):
    assert refused(stubs.status, get_model_status_pb2.GetModelStatusRequest()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Missing ModelSpec",
    )


def metadata_request(model: str, *fields: str) -> get_model_metadata_pb2.GetModelMetadataRequest:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = model
    return request


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((), "GetModelMetadataRequest must specify at least one metadata_field"),
        (("weights",), "Metadata field weights is not supported"),
    ],
)
def test_metadata_other_than_signatures_is_an_invalid_argument(stubs, fields, message):
    assert refused(stubs.metadata, metadata_request("small", *fields)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        message,
    )


def test_the_metadata_of_an_unknown_model_is_not_found(stubs):
    assert refused(stubs.metadata, metadata_request("nobody", "signature_def")) == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(nobody)",
    )


def test_bytes_that_are_no_message_are_told_so_by_every_method(shared_server):
    methods = [
        "PredictionService/Predict",
        "PredictionService/GetModelMetadata",
        "ModelService/GetModelStatus",
    ]
    with grpc.insecure_channel(shared_server.target) as channel:
        for path in [f"/tensorflow.serving.{method}" for method in methods] + [
            "/grpc.health.v1.Health/Check"
        ]:
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary(path)(b"\xff" * 9, timeout=10)
            assert raised.value.code() is grpc.StatusCode.INTERNAL
            assert raised.value.details() == "The request is not a message of this method"
        stream = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\xff" * 9, timeout=10)
        assert stream.code() is grpc.StatusCode.INTERNAL


def test_bytes_that_are_no_message_leave_nothing_behind(shared_server):
    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1])

    with grpc.insecure_channel(shared_server.target) as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

        def send(count: int) -> None:
            for _ in range(count):
                with pytest.raises(grpc.RpcError):
                    predict(b"\xff" * 3000, timeout=30)

        send(500)
        before = resident()
        send(1000)
        # grpcio's own parsing would keep 20 MB of them.
        assert (resident() - before) * os.sysconf("SC_PAGE_SIZE") < 8 << 20
