"""What a call does, whichever port it came by: TensorFlow Serving's answers and errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from saliency_client._contract import DEFAULT_SIGNATURE
from saliency_exporter.methods.declarations import PASSES_PREFIX
from saliency_exporter.runtime.servable import ServableError
from saliency_exporter.runtime.tensor_protos import to_array
from saliency_exporter.serving.admission import Admission
from saliency_exporter.serving.models import ModelManager
from saliency_exporter.serving.withholding import Withheld, check_inputs, without_defaults

SIGNATURE_FIELD = "signature_def"
"""The one field of a model's metadata."""

LARGE = 1000
"""Images times samples from which on a request is large: others come first to one of the running places."""

_MOST_VALUES = 65_536


class Caller(Protocol):
    """Who waits for the answer of one call; a gRPC ServicerContext is one."""

    def peer(self) -> str:
        """The connection; those of one name share their turns."""
        ...

    def is_active(self) -> bool:
        """Whether somebody still waits."""
        ...

    def time_remaining(self) -> float | None:
        """Seconds until the caller gives up; None is never."""
        ...


@dataclass(frozen=True)
class Calls:
    """The calls of a server's clients.

    Attributes:
        models: what is served.
        admission: gives each Predict its place.
        withhold_defaults: see saliency_exporter.serving.withholding.
    """

    models: ModelManager
    admission: Admission
    withhold_defaults: Withheld | None = None

    def predict(
        self, request: predict_pb2.PredictRequest, caller: Caller
    ) -> tuple[model_pb2.ModelSpec, dict[str, np.ndarray]]:
        """Runs one signature of one version.

        Returns:
            What answered, and the outputs by alias; strings as object arrays of bytes.

        Raises:
            ServableError: with TensorFlow Serving's code and text.
        """
        name, version, label = requested(request)
        signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        with self.models.servable(name, version, label) as (_, servable):
            large = is_large(request, servable.signature_defs.get(signature_name))
        with (
            self.admission.place(caller.peer(), large=large),
            self.models.servable(name, version, label) as (number, servable),
        ):
            if not caller.is_active():
                # The caller gave up while the request was waiting.
                raise ServableError(tf.errors.CANCELLED, "The caller has gone")
            if self.withhold_defaults is not None:
                check_inputs(request, servable.signature_defs.get(signature_name))
            outputs = servable.predict(
                signature_name, request.inputs, request.output_filter, caller.time_remaining()
            )
        spec = model_pb2.ModelSpec(name=name, signature_name=signature_name)
        spec.version.value = number
        return spec, outputs

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Tells the signatures of one version, their defaults included unless they are withheld."""
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for metadata_field in request.metadata_field:
            if metadata_field != SIGNATURE_FIELD:
                raise invalid(f"Metadata field {metadata_field} is not supported")
        name, version, label = requested(request)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self.models.servable(name, version, label) as (number, servable):
            told = servable.signature_defs
            if self.withhold_defaults is not None:
                told = without_defaults(told)
            for signature_name, signature in told.items():
                signatures.signature_def[signature_name].CopyFrom(signature)
        response.model_spec.name = name
        response.model_spec.version.value = number
        response.metadata[SIGNATURE_FIELD].Pack(signatures)
        return response

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Tells the state of one version, or of all that the server has known."""
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        response = get_model_status_pb2.GetModelStatusResponse()
        for known in self.models.statuses(spec.name, version):
            status = response.model_version_status.add(version=known.version, state=known.state)
            status.status.error_code = known.code
            status.status.error_message = known.message
        return response

    def signature(self, spec: model_pb2.ModelSpec) -> meta_graph_pb2.SignatureDef | None:
        """The signature that a model spec names, "" for the default one; None where the version has none.

        Raises:
            ServableError: the model or the version is not served.
        """
        with self.models.servable(*_chosen(spec)) as (_, servable):
            return servable.signature_defs.get(spec.signature_name or DEFAULT_SIGNATURE)


def is_large(request: predict_pb2.PredictRequest, signature: meta_graph_pb2.SignatureDef | None) -> bool:
    """Whether a request takes LARGE or more passes of an image over the model; what is unread counts as 1."""
    images = request.inputs["images"].tensor_shape.dim if "images" in request.inputs else ()
    if not images:
        return False
    given: Mapping[str, tensor_pb2.TensorProto] = {
        **(signature.defaults if signature is not None else {}),
        **request.inputs,
    }
    passes = [_largest(value) for name, value in given.items() if name.startswith(PASSES_PREFIX)]
    return images[0].size * math.prod(passes) >= LARGE


def requested(request: Any) -> tuple[str, int | None, str | None]:
    """The model name, version and label that a request names.

    Raises:
        ServableError: INVALID_ARGUMENT: it names no model.
    """
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    if not request.model_spec.name:
        raise invalid("ModelSpec has no name specified.")
    return _chosen(request.model_spec)


def invalid(message: str) -> ServableError:
    """INVALID_ARGUMENT."""
    return ServableError(tf.errors.INVALID_ARGUMENT, message)


def _chosen(spec: model_pb2.ModelSpec) -> tuple[str, int | None, str | None]:
    match spec.WhichOneof("version_choice"):
        case "version":
            return spec.name, spec.version.value, None
        case "version_label":
            return spec.name, None, spec.version_label
        case _:
            return spec.name, None, None


def _largest(tensor: tensor_pb2.TensorProto) -> int:
    """The largest value of a small tensor of integers; at least 1. LARGE where it is not small."""
    if math.prod(dim.size for dim in tensor.tensor_shape.dim) > _MOST_VALUES:
        return LARGE  # decoding it here, before there is a place for it, would cost memory
    try:
        return int(to_array(tensor).max(initial=1))
    except (ValueError, TypeError):
        return 1
