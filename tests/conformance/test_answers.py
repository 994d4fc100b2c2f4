"""What a server of an exported model answers: signatures, defaults, outputs, versions, status, metadata.

Of two answers to the same question the integers and strings are the same, and the floats are to float32
rounding: a GPU's kernels may add in another order each time.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from rounding import KINK, ULP, assert_equal_but_for_kinks, assert_equal_to_rounding, ulps_of_norm
from tensorflow_serving.apis import get_model_status_pb2

EXPLAINED = {
    "gradients": np.float32,
    "saliency": np.float32,
    "class_index": np.int32,
    "score": np.float32,
    "probability": np.float32,
}
SMOOTH_DEFAULTS = {
    "num_samples": 50,
    "noise_level": np.float32(0.15),
    "seed": 0,
    "first_sample": 0,
    "target_error": 0,
    "class_index": -1,
}
METHODS = ["explain_gradients", "explain_guided", "explain_smooth"]


@pytest.fixture(params=METHODS)
def method(request, server) -> str:
    if request.param not in server.signatures:
        pytest.skip(f"the model has no {request.param}")
    return request.param


def parameters(method: str, rows: int, **values) -> dict[str, np.ndarray]:
    """Parameters of each example, as the project's client sends them."""
    values = {"class_index": -1, **values}
    if method == "explain_smooth":
        own = {"num_samples": 4, "noise_level": np.float32(0.1), "seed": 7}
        values = {**own, "first_sample": 0, "target_error": np.float32(0), **values}
    return {
        name: np.full(rows, value, np.float32 if name in ("noise_level", "target_error") else np.int32)
        for name, value in values.items()
    }


def test_serving_default_predicts_a_distribution_for_each_image(server):
    outputs = server.predict("serving_default", images=server.images(3))
    distribution = outputs["probabilities"]
    assert distribution.shape[0] == 3
    np.testing.assert_allclose(distribution.sum(1), 1, rtol=1e-5)


def test_an_empty_signature_name_means_serving_default(server):
    images = server.images(1)
    by_name = server.predict("serving_default", images=images)
    for alias, array in server.predict("", images=images).items():
        assert_equal_but_for_kinks(array, by_name[alias], name=alias)


def test_every_method_answers_its_outputs_in_their_shapes_and_dtypes(server, method):
    rows = 3
    outputs = server.predict(method, images=server.images(rows), **parameters(method, rows))
    height, width, channels = server.image_shape()
    for name, dtype in EXPLAINED.items():
        assert outputs[name].dtype == dtype, name
        assert outputs[name].shape[0] == rows, name
    assert outputs["gradients"].shape == (rows, height, width, channels)
    assert outputs["saliency"].shape == (rows, height, width)
    if method == "explain_smooth":
        assert outputs["variance"].shape == (rows, height, width, channels)
        assert outputs["relative_error"].shape == (rows,)


def test_the_map_is_the_largest_magnitude_over_the_channels(server, method):
    outputs = server.predict(method, images=server.images(2), **parameters(method, 2))
    # A compiler may compute the last steps of both outputs on their own.
    assert_equal_to_rounding(outputs["saliency"], np.abs(outputs["gradients"]).max(-1))


def test_a_request_of_images_alone_takes_the_defaults_of_the_contract(server, method):
    images = server.images(1)
    names = parameters(method, 1)
    if not server.fills_in_defaults:
        assert server.refused(method, images=images)[0] is grpc.StatusCode.INVALID_ARGUMENT
        pytest.skip("the server fills in no defaults, or batches requests, which rejects scalars")
    explicit = {name: SMOOTH_DEFAULTS[name] for name in names}
    outputs = ("gradients", "class_index", "score")
    left_out = server.predict(method, images=images, outputs=outputs)
    given = server.predict(method, images=images, outputs=outputs, **parameters(method, 1, **explicit))
    for alias, array in left_out.items():
        assert_equal_but_for_kinks(array, given[alias], name=alias)


def test_the_default_class_is_the_predicted_one_with_its_probability(server, method):
    images = server.images(2)
    distribution = server.predict("serving_default", images=images)["probabilities"]
    outputs = server.predict(method, images=images, **parameters(method, 2))
    np.testing.assert_array_equal(outputs["class_index"], distribution.argmax(1))
    np.testing.assert_allclose(outputs["probability"], distribution.max(1), rtol=1e-4)


def test_a_scalar_parameter_stands_for_every_image(server, method):
    images = server.images(2)
    scalars = {name: value[0] for name, value in parameters(method, 2, class_index=1).items()}
    try:
        outputs = server.predict(method, images=images, **scalars)
    except grpc.RpcError as error:
        if "Batching" in error.details():
            pytest.skip("the server batches requests, which rejects scalars")
        raise
    listed = server.predict(method, images=images, **parameters(method, 2, class_index=1))
    assert_equal_but_for_kinks(outputs["gradients"], listed["gradients"])


def test_each_image_has_its_own_class(server, method):
    image = server.images(1)
    pair = np.concatenate([image, image])
    inputs = parameters(method, 2) | {"class_index": np.array([0, 1], np.int32)}
    outputs = server.predict(method, images=pair, **inputs)
    assert outputs["class_index"].tolist() == [0, 1]
    one, other = outputs["gradients"][:1], outputs["gradients"][1:]
    assert ulps_of_norm(other, one)[0] * ULP > 2 * KINK


def test_the_same_request_twice_gives_the_same_map(server, method):
    request = {"images": server.images(2), **parameters(method, 2)}
    first, second = (server.predict(method, **request)["gradients"] for _ in range(2))
    assert_equal_but_for_kinks(second, first)


def test_only_the_outputs_of_the_filter_come(server, method):
    inputs = {"images": server.images(1), **parameters(method, 1)}
    assert set(server.predict(method, outputs=("saliency", "score"), **inputs)) == {"saliency", "score"}


def test_a_batch_beyond_the_largest_compiled_size_is_answered(server, method):
    rows = 37
    outputs = server.predict(
        method, images=server.images(rows), outputs=("saliency",), **parameters(method, rows, class_index=0)
    )
    assert outputs["saliency"].shape[0] == rows


def test_an_answer_beyond_4_MiB_passes(server):
    rows = (5 << 20) // (4 * int(np.prod(server.image_shape()))) + 1
    inputs = {"images": server.images(rows), **parameters("explain_gradients", rows)}
    outputs = server.predict("explain_gradients", outputs=("gradients",), **inputs)
    assert outputs["gradients"].nbytes > 5 << 20


def test_a_request_beyond_4_MiB_passes(server):
    rows = (5 << 20) // server.images(1).nbytes + 1
    images = server.images(rows)
    assert images.nbytes > 5 << 20
    outputs = server.predict("serving_default", outputs=("probabilities",), images=images)
    assert outputs["probabilities"].shape[0] == rows


def test_the_answer_names_model_version_and_signature(server, method):
    inputs = {"images": server.images(1), **parameters(method, 1)}
    spec = server.predict_stub(server.request(method, inputs), timeout=120).model_spec
    assert (spec.name, spec.signature_name) == (server.model, method)
    assert spec.version.value == server.available_version()


def test_a_version_can_be_asked_for_by_its_number(server):
    request = server.request("serving_default", {"images": server.images(1)})
    request.model_spec.version.value = server.available_version()
    assert server.predict_stub(request, timeout=120).model_spec.version == request.model_spec.version


def test_a_version_can_be_asked_for_by_its_label(server, label):
    request = server.request("serving_default", {"images": server.images(1)})
    request.model_spec.version_label = label
    assert server.predict_stub(request, timeout=120).outputs


def test_the_status_is_available_and_without_an_error(server):
    response = server.status_stub(server.status_request(server.model), timeout=120)
    status = max(response.model_version_status, key=lambda status: status.version)
    assert status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert (status.status.error_code, status.status.error_message) == (0, "")


def test_the_status_of_one_version_is_told_alone(server):
    version = server.available_version()
    response = server.status_stub(server.status_request(server.model, version), timeout=120)
    assert [status.version for status in response.model_version_status] == [version]


def test_every_signature_with_its_inputs_outputs_and_defaults_is_told(server, method):
    signature = server.signatures[method]
    expected = set(parameters(method, 1))
    assert set(signature.inputs) == expected | {"images"}
    assert set(EXPLAINED) <= set(signature.outputs)
    defaults = server.defaults(method)
    assert set(defaults) == expected
    for name, value in defaults.items():
        assert value.item() == SMOOTH_DEFAULTS[name]


def test_concurrent_requests_of_every_kind_get_the_answers_that_they_get_alone(server):
    kinds = [name for name in METHODS if name in server.signatures]

    def ask(seed: int) -> np.ndarray:
        method = kinds[seed % len(kinds)]
        rows = 1 + seed % 3
        values = {"class_index": seed % 2}
        if method == "explain_smooth":
            values |= {"seed": seed, "num_samples": 2 + seed % 4, "noise_level": 0.05 * (seed % 3)}
        inputs = {"images": server.images(rows, seed), **parameters(method, rows, **values)}
        return server.predict(method, outputs=("gradients",), **inputs)["gradients"]

    alone = [ask(seed) for seed in range(24)]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, range(24)))
    for expected, answer in zip(alone, together, strict=True):
        assert_equal_but_for_kinks(answer, expected)


def test_a_deadline_ends_the_call_and_the_server_goes_on(server):
    rows = 64
    inputs = {"images": server.images(rows), **parameters("explain_smooth", rows, num_samples=100)}
    with pytest.raises(grpc.RpcError) as raised:
        server.predict_stub(server.request("explain_smooth", inputs), timeout=0.05)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert server.predict("serving_default", images=server.images(1))


@pytest.mark.parametrize("name", ["", "ModelService", "PredictionService"])
def test_the_health_service_says_serving_where_it_is_enabled(server, name):
    try:
        answer = health_pb2_grpc.HealthStub(server.channel).Check(
            health_pb2.HealthCheckRequest(service=name), timeout=120
        )
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            pytest.skip("started without --enable_grpc_healthcheck_service")
        raise
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services(server):
    services = ProtoReflectionDescriptorDatabase(server.channel).get_services()
    assert {"tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"} <= set(services)
