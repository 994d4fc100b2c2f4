"""What a client of the server relies on when nothing is wrong."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from serving_models import LABELS, WEIGHTS, predict_request
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from saliency_exporter.runtime.tensor_protos import to_array
from saliency_exporter.serving.server import local_target

IMAGES = np.array([[1.0, 2.0], [3.0, -4.0]], np.float32)
# The server's latest version is 2, whose weights are twice those of the module.
LOGITS = np.array([[2.0, 0.0, 13.0], [6.0, -20.0, -21.0]], np.float32)


def arrays(response) -> dict[str, np.ndarray]:
    return {alias: tf.make_ndarray(proto) for alias, proto in response.outputs.items()}


def test_without_a_name_the_signature_is_serving_default_and_all_outputs_come(stubs):
    response = stubs.predict(predict_request("small", images=IMAGES), timeout=20)
    assert set(response.outputs) == {"logits", "probabilities"}
    np.testing.assert_array_equal(arrays(response)["logits"], LOGITS)
    assert response.model_spec.signature_name == "serving_default"


def test_the_answer_names_model_version_and_signature(stubs):
    spec = stubs.predict(predict_request("small", "explain", images=IMAGES), timeout=20).model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("small", 2, "explain")


def test_defaults_are_filled_by_the_server_and_the_compiled_gradient_is_the_class_weights(stubs):
    outputs = arrays(stubs.predict(predict_request("small", "explain", images=IMAGES), timeout=20))
    assert outputs["class_index"].tolist() == [2, 0]
    np.testing.assert_array_equal(outputs["gradients"], 2 * WEIGHTS[:, [2, 0]].T)
    assert outputs["label"].tolist() == [LABELS[2].encode(), LABELS[0].encode()]


def test_only_the_outputs_asked_for_come(stubs):
    request = predict_request("small", "explain", images=IMAGES, outputs=["label", "version"])
    assert set(stubs.predict(request, timeout=20).outputs) == {"label", "version"}


def test_a_version_can_be_named(stubs):
    request = predict_request("small", images=IMAGES)
    request.model_spec.version.value = 2
    assert stubs.predict(request, timeout=20).model_spec.version.value == 2


def test_a_message_beyond_4_MiB_passes_both_ways(stubs):
    block = np.arange(3_000_000, dtype=np.float32).reshape(1, -1)
    outputs = arrays(stubs.predict(predict_request("small", "echo", block=block), timeout=60))
    np.testing.assert_array_equal(outputs["block"], block)


def test_by_default_tensors_come_in_typed_fields(stubs):
    outputs = stubs.predict(predict_request("small", "explain", images=IMAGES), timeout=20).outputs
    assert len(outputs["gradients"].float_val) == 4
    assert list(outputs["label"].string_val) == [b"cat", b"ant"]
    assert not any(proto.tensor_content for proto in outputs.values())


def test_with_the_option_tensors_come_as_tensor_content_strings_included(
    saved_versions, start_local, stubs_to
):
    server = start_local({"small": saved_versions[1].parent}, encoding="tensor_content")
    request = predict_request("small", "explain", images=IMAGES)
    outputs = stubs_to(server.target).predict(request, timeout=20).outputs
    np.testing.assert_array_equal(
        np.frombuffer(outputs["gradients"].tensor_content, "<f4").reshape(2, 2), 2 * WEIGHTS[:, [2, 0]].T
    )
    assert outputs["label"].tensor_content == b"\x03\x03catant"
    assert to_array(outputs["label"]).tolist() == [b"cat", b"ant"]


def test_the_metadata_holds_every_signature_with_its_defaults(stubs):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "small"
    response = stubs.metadata(request, timeout=20)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "explain", "scalar", "busy", "echo"} <= set(signatures.signature_def)
    explain = signatures.signature_def["explain"]
    assert tf.make_ndarray(explain.defaults["class_index"]).tolist() == [-1]
    assert (response.model_spec.name, response.model_spec.version.value) == ("small", 2)


def test_the_status_is_available_without_an_error(stubs):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "small"
    (status,) = stubs.status(request, timeout=20).model_version_status
    assert (status.version, status.state) == (2, get_model_status_pb2.ModelVersionStatus.AVAILABLE)
    assert (status.status.error_code, status.status.error_message) == (0, "")


@pytest.mark.parametrize("name", ["", "ModelService", "PredictionService"])
def test_the_health_service_knows_the_names_that_TensorFlow_Serving_knows(stubs, name):
    health = health_pb2_grpc.HealthStub(stubs.channel)
    answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services_and_describes_their_methods(stubs):
    database = ProtoReflectionDescriptorDatabase(stubs.channel)
    assert "tensorflow.serving.PredictionService" in database.get_services()
    file = database.FindFileContainingSymbol("tensorflow.serving.ModelService")
    assert "GetModelStatus" in [method.name for method in file.service[0].method]


def test_many_clients_at_once_get_each_their_own_answer(stubs):
    def ask(seed: int) -> None:
        images = np.random.default_rng(seed).normal(size=(1 + seed % 5, 2)).astype(np.float32)
        wanted = seed % 3
        request = predict_request(
            "small", "explain", images=images, class_index=np.full(len(images), wanted, np.int32)
        )
        outputs = arrays(stubs.predict(request, timeout=60))
        np.testing.assert_array_equal(
            outputs["gradients"], np.broadcast_to(2 * WEIGHTS[:, wanted], images.shape)
        )

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(60)))


def test_one_version_directory_is_served_for_local_use(saved_versions, stubs_to):
    with local_target(saved_versions[1]) as (target, model):
        response = stubs_to(target).predict(predict_request(model, images=IMAGES), timeout=20)
    np.testing.assert_array_equal(arrays(response)["logits"], LOGITS / 2)


def test_gRPC_options_reach_the_server(saved_versions, start_local, stubs_to):
    limited = {"grpc.max_receive_message_length": 1000}
    server = start_local({"small": saved_versions[1].parent}, grpc_arguments=limited)
    stubs = stubs_to(server.target)
    assert stubs.predict(predict_request("small", images=IMAGES), timeout=20).outputs
    with pytest.raises(grpc.RpcError) as raised:
        stubs.predict(predict_request("small", images=np.ones([1000, 2], np.float32)), timeout=20)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
