"""Both ports of a server answer alike: values to the bit, and refusals in the same words.

The REST port of another server is asked with `--rest http://HOST:PORT`.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import json_format
from rounding import assert_equal_but_for_kinks
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2
from test_answers import METHODS, parameters

ROWS = 2
HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.NOT_FOUND: 404,
}


@pytest.fixture(scope="module")
def ask(server) -> Callable[..., tuple[int, dict]]:
    """Asks the REST port: a path below /v1/models, and a body where it is a POST."""
    if server.rest_url is None:
        pytest.skip("give --rest for the REST port of the server")

    def ask(path: str, body: dict | None = None) -> tuple[int, dict]:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{server.rest_url}/v1/models/{path}", content)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    return ask


def inputs_of(server, signature: str, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Images and every parameter, as many as there are rows."""
    if signature in METHODS:
        return {"images": server.images(rows), **parameters(signature, rows)}
    if signature == "parameter_bounds":
        return server.bounds_request([f"{METHODS[0]}/class_index"] * rows)
    defaults = server.defaults(signature) if signature.startswith("explain_") else {}
    given = {}
    for name, info in server.signatures[signature].inputs.items():
        dtype = tf.as_dtype(info.dtype)
        if name == "images":
            given[name] = server.images(rows)
        elif dtype == tf.string:
            given[name] = np.full(rows, b"", object)
        else:
            given[name] = np.full(rows, defaults.get(name, 0)).astype(dtype.as_numpy_dtype)
    return given


def listed(inputs: dict[str, np.ndarray]) -> dict[str, list]:
    """As JSON takes them."""
    return {
        name: [one.decode() for one in value] if value.dtype == object else value.tolist()
        for name, value in inputs.items()
    }


def read(value: list, like: np.ndarray) -> np.ndarray:
    if like.dtype == object:
        return np.array([one.encode() for one in value], object)
    return np.array(value, like.dtype).reshape(like.shape)


def assert_same(got: np.ndarray, first: np.ndarray, second: np.ndarray, name: str) -> None:
    """To the bit, where two gRPC answers are the same to the bit; a GPU's need not be."""
    if np.array_equal(first, second, equal_nan=first.dtype.kind == "f"):
        assert got.tobytes() == first.tobytes() or np.array_equal(got, first), name
    else:
        assert_equal_but_for_kinks(got, first, name=name)


def test_every_signature_answers_alike_on_both_ports_in_both_formats(server, ask):
    names = [name for name in server.signatures if not name.startswith("__")]
    assert set(METHODS) <= set(names)
    for signature in names:
        inputs = inputs_of(server, signature)
        first, second = (server.predict(signature, **inputs) for _ in range(2))
        status, columns = ask(
            f"{server.model}:predict", {"signature_name": signature, "inputs": listed(inputs)}
        )
        assert status == 200, columns
        rows = [{name: value[row] for name, value in listed(inputs).items()} for row in range(ROWS)]
        status, answer = ask(f"{server.model}:predict", {"signature_name": signature, "instances": rows})
        assert status == 200, answer
        outputs, predictions = columns["outputs"], answer["predictions"]
        if len(first) == 1:
            (only,) = first
            outputs, predictions = {only: outputs}, [{only: one} for one in predictions]
        assert set(outputs) == set(first) == set(predictions[0])
        for name, value in first.items():
            assert_same(read(outputs[name], value), value, second[name], name)
            in_rows = [row[name] for row in predictions]
            assert_same(read(in_rows, value), value, second[name], name)


@pytest.mark.parametrize("where", ["", "/versions/{version}", "/labels/{label}"])
def test_a_version_is_named_in_the_path(server, ask, where, request):
    label = request.getfixturevalue("label") if "label" in where else None
    path = where.format(version=server.available_version(), label=label)
    body = {"inputs": server.images(1).tolist()}
    expected = server.predict("serving_default", images=server.images(1))
    status, answer = ask(f"{server.model}{path}:predict", body)
    assert status == 200
    for name, value in expected.items():
        assert_equal_but_for_kinks(read(answer["outputs"][name], value), value, name=name)


def test_status_is_the_same(server, ask):
    told = server.status_stub(server.status_request(server.model), timeout=60)
    status, answer = ask(server.model)
    assert status == 200
    assert json_format.ParseDict(answer, get_model_status_pb2.GetModelStatusResponse()) == told


def test_metadata_is_the_same(server, ask):
    status, answer = ask(f"{server.model}/metadata")
    assert status == 200
    told = json_format.ParseDict(
        answer["metadata"]["signature_def"], get_model_metadata_pb2.SignatureDefMap()
    )
    assert dict(told.signature_def) == server.signatures
    assert answer["model_spec"]["version"] == str(server.available_version())


def refusals(server) -> list[tuple[str, str, dict[str, np.ndarray]]]:
    """Of each case the path, the signature and the inputs."""
    height, width, channels = server.image_shape()
    smooth = inputs_of(server, "explain_smooth")
    one = inputs_of(server, "explain_gradients")
    small = np.zeros((ROWS, height + 1, width, channels), server.images(1).dtype)
    here = server.model
    return [
        ("nobody", "serving_default", {"images": server.images(1)}),
        (f"{here}/versions/987654", "serving_default", {"images": server.images(1)}),
        (f"{here}/labels/no-such-label", "serving_default", {"images": server.images(1)}),
        (here, "explain_gradients", {**one, "class_index": np.array([1 << 30, 0], np.int32)}),
        (here, "explain_gradients", {**one, "images": small}),
        (here, "explain_gradients", {**one, "class_index": np.zeros(3, np.int32)}),
        (here, "explain_smooth", {**smooth, "num_samples": np.zeros(ROWS, np.int32)}),
        (here, "explain_smooth", {**smooth, "noise_level": np.full(ROWS, np.nan, np.float32)}),
        (here, "explain_smooth", {**smooth, "noise_level": np.full(ROWS, 1.5, np.float32)}),
    ]


def test_a_refusal_has_the_same_words_on_both_ports(server, ask):
    for path, signature, inputs in refusals(server):
        request = server.request(signature, inputs)
        request.model_spec.name, _, chosen = path.partition("/")
        kind, _, value = chosen.partition("/")
        if kind == "versions":
            request.model_spec.version.value = int(value)
        elif kind == "labels":
            request.model_spec.version_label = value
        code, message = server.refusal(server.predict_stub, request)
        body = {"signature_name": signature, "inputs": listed(inputs)}
        status, answer = ask(f"{path}:predict", body)
        assert status == HTTP_STATUS[code], (path, signature)
        assert answer["error"][:1024] == message.removesuffix("...TRUNCATED"), (path, signature)


def test_an_unknown_signature_has_other_words_here(server, ask):
    body = {"signature_name": "explain_nothing", "inputs": [1]}
    expected = 'Serving signature name: "explain_nothing" not found in signature def'
    assert ask(f"{server.model}:predict", body) == (400, {"error": expected})


def test_no_default_is_filled_in(server, ask):
    body = {"signature_name": "explain_gradients", "inputs": {"images": server.images(1).tolist()}}
    expected = "Missing named input: class_index in 'inputs' object."
    assert ask(f"{server.model}:predict", body) == (400, {"error": expected})


def test_there_is_nothing_to_classify_or_regress(server, ask):
    for action in ("classify", "regress"):
        body = {"signature_name": "explain_gradients", "examples": [{"x": 1}]}
        assert ask(f"{server.model}:{action}", body) == (400, {"error": "Expected one input Tensor."})
