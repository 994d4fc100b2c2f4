"""TensorFlow Serving's REST API, without the HTTP: a method, a path and a body to a status and a body.

Sources: its page api_rest.md, and where that is silent, in tensorflow_serving/model_servers,
http_rest_api_handler.cc, http_rest_api_util.cc (paths) and http_server.cc (statuses).
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from saliency_client._contract import DEFAULT_SIGNATURE
from saliency_exporter.runtime.servable import ServableError
from saliency_exporter.serving import rest_json
from saliency_exporter.serving.calls import SIGNATURE_FIELD, Caller, Calls, invalid

JSON = "application/json"

_MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_POSTED = re.compile(rf"{_MODEL}:(classify|regress|predict)", re.IGNORECASE | re.ASCII)
_GOT = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:/versions/(\d+)|/labels/([^/:]+))?(?:/(metadata))?",
    re.IGNORECASE | re.ASCII,
)
_OURS = re.compile(r"/v1/.*", re.IGNORECASE)
_LARGEST_VERSION = 2**63 - 1

HTTP_STATUS = {
    tf.errors.CANCELLED: 499,
    tf.errors.UNKNOWN: 500,
    tf.errors.INVALID_ARGUMENT: 400,
    tf.errors.DEADLINE_EXCEEDED: 504,
    tf.errors.NOT_FOUND: 404,
    tf.errors.ALREADY_EXISTS: 409,
    tf.errors.PERMISSION_DENIED: 403,
    tf.errors.RESOURCE_EXHAUSTED: 429,
    tf.errors.FAILED_PRECONDITION: 400,
    tf.errors.ABORTED: 409,
    tf.errors.OUT_OF_RANGE: 400,
    tf.errors.UNIMPLEMENTED: 501,
    tf.errors.INTERNAL: 500,
    tf.errors.UNAVAILABLE: 503,
    tf.errors.DATA_LOSS: 500,
    tf.errors.UNAUTHENTICATED: 401,
}
"""ToHTTPStatusCode of http_server.cc, by canonical code."""


@dataclass(frozen=True)
class Answer:
    """What goes back: an HTTP status, a body and its type."""

    status: int
    body: bytes
    content_type: str = JSON


def answer(calls: Calls, method: str, path: str, body: bytes, caller: Caller) -> Answer:
    """Answers one request.

    Args:
        calls: what the server can do.
        method: "GET", "POST", ….
        path: as it was sent: escaped, with its query, which counts as a part of it.
        body: as it was sent, uncompressed.
        caller: who waits; when its time is up after the model has run, the answer is DEADLINE_EXCEEDED.
    """
    if not _OURS.fullmatch(path):
        return Answer(404, b"Not Found\n", "text/plain")
    try:
        return Answer(200, _answered(calls, method, path, body, caller))
    except ServableError as error:
        return refusal(error)
    except Exception as error:
        logging.getLogger(__name__).exception("request failed")
        return refusal(ServableError(tf.errors.INTERNAL, f"{type(error).__name__}: {error}"))


def refusal(error: ServableError) -> Answer:
    """The answer to a call that cannot be done: its status, and its message whole."""
    return Answer(HTTP_STATUS.get(error.code, 500), rest_json.error_text(error.message))


def _answered(calls: Calls, method: str, path: str, body: bytes, caller: Caller) -> bytes:
    pattern = {"POST": _POSTED, "GET": _GOT}.get(method)
    match = pattern.fullmatch(path) if pattern else None
    if match is None:
        raise _malformed(method, path)
    spec = _spec(*match.groups()[:3])
    if method == "GET":
        if not spec.name:
            raise invalid("Missing model name in request.")
        # "METADATA" matches and is not "metadata": it asks for the status.
        return _metadata(calls, spec) if match[4] == "metadata" else _status(calls, spec)
    actions: dict[str, Callable[[], bytes]] = {
        "predict": lambda: _predict(calls, spec, body, caller),
        "classify": lambda: _of_examples(calls, spec, body, _check_classifies),
        "regress": lambda: _of_examples(calls, spec, body, _check_regresses),
    }
    if match[4] not in actions:
        raise _malformed(method, path)
    return actions[match[4]]()


def _malformed(method: str, path: str) -> ServableError:
    return invalid(f"Malformed request: {method} {path}")


def _spec(name: str | None, version: str | None, label: str | None) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=unquote(name or ""))
    if version is not None:
        if int(version) > _LARGEST_VERSION:
            raise invalid(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(version)
    if label is not None:
        spec.version_label = unquote(label)
    return spec


def _predict(calls: Calls, spec: model_pb2.ModelSpec, body: bytes, caller: Caller) -> bytes:
    document = rest_json.read_object(body)
    spec.signature_name = rest_json.signature_name(document)
    signature = calls.signature(spec)
    if signature is None:
        name = spec.signature_name or DEFAULT_SIGNATURE
        raise invalid(f'Serving signature name: "{name}" not found in signature def')
    if not signature.inputs:
        raise invalid(f"Failed to get input map for signature: {spec.signature_name or 'DEFAULT'}")
    format_, tensors = rest_json.read_inputs(document, signature.inputs)
    request = predict_pb2.PredictRequest(model_spec=spec)
    for name, tensor in tensors.items():
        request.inputs[name].CopyFrom(tensor)
    _, outputs = calls.predict(request, caller)
    remaining = caller.time_remaining()
    if remaining is not None and remaining <= 0:
        # A run that has begun ends, here as there; what it computed is thrown away (direct_session.cc).
        raise ServableError(tf.errors.DEADLINE_EXCEEDED, "Timed out waiting for notification")
    return rest_json.answer_text(outputs, format_)


def _status(calls: Calls, spec: model_pb2.ModelSpec) -> bytes:
    return _json(calls.status(get_model_status_pb2.GetModelStatusRequest(model_spec=spec))).encode()


def _metadata(calls: Calls, spec: model_pb2.ModelSpec) -> bytes:
    response = calls.metadata(
        get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURE_FIELD])
    )
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[SIGNATURE_FIELD].Unpack(signatures)
    # One by one: the message that holds them would name their type, as "@type".
    return (
        f'{{\n"model_spec":{_json(response.model_spec)},\n'
        f'"metadata": {{"{SIGNATURE_FIELD}": {_json(signatures)}}}\n}}\n'
    ).encode()


def _json(message: Any) -> str:
    return json.dumps(
        json_format.MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        ),
        indent=1,
        ensure_ascii=False,
    )


def _of_examples(
    calls: Calls, spec: model_pb2.ModelSpec, body: bytes, check: Callable[[meta_graph_pb2.SignatureDef], None]
) -> bytes:
    """Refuses classify or regress, with TensorFlow Serving's reason if the signature is not made for it."""
    document = rest_json.read_object(body)
    spec.signature_name = rest_json.signature_name(document)
    rest_json.examples_of(document)
    signature = calls.signature(spec)
    if signature is None:
        raise invalid(f"No signature was found with the name: {spec.signature_name or DEFAULT_SIGNATURE}")
    check(signature)
    raise ServableError(
        tf.errors.UNIMPLEMENTED, "The local server answers predict alone, not classify and regress"
    )


def _check_classifies(signature: meta_graph_pb2.SignatureDef) -> None:
    """PreProcessClassification of classifier.cc."""
    _check_has_one_input(signature)
    if len(signature.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if "inputs" not in signature.inputs:
        raise invalid(f"No classification inputs found in SignatureDef: {signature}")
    if not {"classes", "scores"} & set(signature.outputs):
        raise invalid(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {signature}"
        )


def _check_regresses(signature: meta_graph_pb2.SignatureDef) -> None:
    """PreProcessRegression of regressor.cc."""
    _check_has_one_input(signature)
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise invalid(f"No regression inputs found in SignatureDef: {signature}")
    if "outputs" not in signature.outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {signature}")


def _check_has_one_input(signature: meta_graph_pb2.SignatureDef) -> None:
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")


class Waiting:
    """The caller of one request over HTTP.

    Args:
        peer: its connection.
        seconds: how long it may take.
    """

    def __init__(self, peer: str, seconds: float) -> None:
        self._peer = peer
        self._deadline = time.monotonic() + seconds
        self.gone = False

    def peer(self) -> str:
        """The connection."""
        return self._peer

    def is_active(self) -> bool:
        """Whether it has not hung up."""
        return not self.gone

    def time_remaining(self) -> float:
        """Seconds until its time is up, 0 when it is."""
        return max(0.0, self._deadline - time.monotonic())
