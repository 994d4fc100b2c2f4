"""The gRPC services: TensorFlow Serving's answers and errors, on its official stubs."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from saliency_client._contract import DEFAULT_SIGNATURE
from saliency_client._varints import bytes_field
from saliency_exporter.methods.declarations import PASSES_PREFIX
from saliency_exporter.runtime.servable import ServableError
from saliency_exporter.runtime.tensor_protos import Encoding, Piece, serialized, to_array
from saliency_exporter.serving.admission import Admission
from saliency_exporter.serving.models import ModelManager
from saliency_exporter.serving.withholding import Withheld, check_inputs, without_defaults

MESSAGE_LIMIT = 1024

LARGE = 1000
"""Images times samples from which on a request is large: others come first to one of the running places."""

_MOST_VALUES = 65_536
_OUTPUTS = predict_pb2.PredictResponse.DESCRIPTOR.fields_by_name["outputs"].number
_KEY, _VALUE = 1, 2  # of every map's entries
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}
_Answer = TypeVar("_Answer")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the services for tf.Example inputs stay UNIMPLEMENTED.

    A server of it needs the interceptor `Messages`: Predict answers in bytes.
    """

    def __init__(
        self,
        models: ModelManager,
        admission: Admission,
        encoding: Encoding,
        withhold_defaults: Withheld | None = None,
    ) -> None:
        self._models = models
        self._admission = admission
        self._encoding = encoding
        self._withhold_defaults = withhold_defaults

    def Predict(self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> bytes:
        """Runs one signature of one version; the answer is a serialized PredictResponse."""
        return _answer(context, lambda: self._predict(request, context))

    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Tells the signatures of one version, their defaults included unless they are withheld."""
        return _answer(context, lambda: self._metadata(request))

    def _predict(self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> bytes:
        name, version, label = _requested(request)
        signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        with self._models.servable(name, version, label) as (_, servable):
            large = is_large(request, servable.signature_defs.get(signature_name))
        with (
            self._admission.place(context.peer(), large=large),
            self._models.servable(name, version, label) as (number, servable),
        ):
            if not context.is_active():
                # The caller gave up while the request was waiting.
                raise ServableError(tf.errors.CANCELLED, "The caller has gone")
            if self._withhold_defaults is not None:
                check_inputs(request, servable.signature_defs.get(signature_name))
            outputs = servable.predict(
                signature_name, request.inputs, request.output_filter, context.time_remaining()
            )
        spec = model_pb2.ModelSpec(name=name, signature_name=signature_name)
        spec.version.value = number
        return predict_answer(spec, outputs, self._encoding)

    def _metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if not request.HasField("model_spec"):
            raise _invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise _invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for metadata_field in request.metadata_field:
            if metadata_field != "signature_def":
                raise _invalid(f"Metadata field {metadata_field} is not supported")
        name, version, label = _requested(request)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self._models.servable(name, version, label) as (number, servable):
            told = servable.signature_defs
            if self._withhold_defaults is not None:
                told = without_defaults(told)
            for signature_name, signature in told.items():
                signatures.signature_def[signature_name].CopyFrom(signature)
        response.model_spec.name = name
        response.model_spec.version.value = number
        response.metadata["signature_def"].Pack(signatures)
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus; the configuration is given at start, so HandleReloadConfigRequest is UNIMPLEMENTED."""

    def __init__(self, models: ModelManager) -> None:
        self._models = models

    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Tells the state of one version, or of all that the server has known."""
        return _answer(context, lambda: self._status(request))

    def _status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        if not request.HasField("model_spec"):
            raise _invalid("Missing ModelSpec")
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        response = get_model_status_pb2.GetModelStatusResponse()
        for known in self._models.statuses(spec.name, version):
            status = response.model_version_status.add(version=known.version, state=known.state)
            status.status.error_code = known.code
            status.status.error_message = known.message
        return response


def predict_answer(spec: model_pb2.ModelSpec, outputs: Mapping[str, np.ndarray], encoding: Encoding) -> bytes:
    """A serialized PredictResponse, put together with one copy of the arrays."""
    pieces: list[Piece] = [predict_pb2.PredictResponse(model_spec=spec).SerializeToString()]
    for alias, array in outputs.items():
        entry = [*bytes_field(_KEY, [alias.encode()]), *bytes_field(_VALUE, serialized(array, encoding))]
        pieces += bytes_field(_OUTPUTS, entry)
    return b"".join(pieces)


def is_large(request: predict_pb2.PredictRequest, signature: meta_graph_pb2.SignatureDef | None) -> bool:
    """Whether a request takes LARGE or more passes of an image over the model; what is unread counts as 1."""
    images = request.inputs["images"].tensor_shape.dim if "images" in request.inputs else ()
    if not images:
        return False
    given = {**(signature.defaults if signature is not None else {}), **request.inputs}
    passes = [_largest(value) for name, value in given.items() if name.startswith(PASSES_PREFIX)]
    return images[0].size * math.prod(passes) >= LARGE


def _largest(tensor: tensor_pb2.TensorProto) -> int:
    """The largest value of a small tensor of integers; at least 1. LARGE where it is not small."""
    if math.prod(dim.size for dim in tensor.tensor_shape.dim) > _MOST_VALUES:
        return LARGE  # decoding it here, before there is a place for it, would cost memory
    try:
        return int(to_array(tensor).max(initial=1))
    except (ValueError, TypeError):
        return 1


def _requested(request: Any) -> tuple[str, int | None, str | None]:
    """The model name, version and label that a request names."""
    if not request.HasField("model_spec"):
        raise _invalid("Missing ModelSpec")
    spec: model_pb2.ModelSpec = request.model_spec
    if not spec.name:
        raise _invalid("ModelSpec has no name specified.")
    match spec.WhichOneof("version_choice"):
        case "version":
            return spec.name, spec.version.value, None
        case "version_label":
            return spec.name, None, spec.version_label
        case _:
            return spec.name, None, None


def _answer(context: grpc.ServicerContext, call: Callable[[], _Answer]) -> _Answer:
    try:
        return call()
    except ServableError as error:
        context.abort(_STATUS_CODES.get(error.code, grpc.StatusCode.UNKNOWN), _cut(error.message))
    except Exception as error:
        logging.getLogger(__name__).exception("request failed")
        context.abort(grpc.StatusCode.INTERNAL, _cut(f"{type(error).__name__}: {error}"))
    raise AssertionError("abort raises")


def _cut(message: str) -> str:
    """TensorFlow Serving's bound: a message travels in the trailers, which clients limit."""
    return message if len(message) <= MESSAGE_LIMIT else message[:MESSAGE_LIMIT] + "...TRUNCATED"


def _invalid(message: str) -> ServableError:
    return ServableError(tf.errors.INVALID_ARGUMENT, message)
