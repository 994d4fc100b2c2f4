"""Requests, built from arrays and a signature; answers, checked against the same. Nothing here does I/O."""

from __future__ import annotations

import operator
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from saliency_client._contract import CLASS_INDEX
from saliency_client._errors import AnswerError, InputError
from saliency_client._proto import saliency_client_tfs_pb2 as tfs
from saliency_client._shapes import shape_hint
from saliency_client._signatures import Signature, TensorSpec
from saliency_client._tensors import Array, decode, serialized
from saliency_client._wire import join_request, split_answer

PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

ArrayLike = npt.ArrayLike
# A str is one name; "all" is every output that the signature has.
Outputs = str | Iterable[str] | None

_LARGEST_MESSAGE = 2**31 - 1


@dataclass(frozen=True)
class ModelName:
    """Which model of a server: its name, and a version or a label or neither (the latest)."""

    name: str
    version: int | None = None
    label: str | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}, version {self.version}"
        if self.label is not None:
            return f"{self.name}, label {self.label}"
        return self.name

    @property
    def follows_latest(self) -> bool:
        """Whether the server chooses the version."""
        return self.version is None and self.label is None

    def spec(self, signature: str = "") -> tfs.ModelSpec:
        """The ModelSpec message."""
        spec = tfs.ModelSpec(name=self.name, signature_name=signature)
        if self.version is not None:
            spec.version.value = self.version
        elif self.label is not None:
            spec.version_label = self.label
        return spec


@dataclass(frozen=True)
class Request:
    """A serialised Predict request, and what its answer must hold."""

    payload: bytes
    signature: Signature
    outputs: tuple[str, ...]
    batch: int | None


def metadata_request(model: ModelName) -> bytes:
    """A serialised GetModelMetadataRequest."""
    return tfs.GetModelMetadataRequest(
        model_spec=model.spec(), metadata_field=["signature_def"]
    ).SerializeToString()


def status_request(model: ModelName) -> bytes:
    """A serialised GetModelStatusRequest."""
    return tfs.GetModelStatusRequest(model_spec=model.spec()).SerializeToString()


def explain_request(
    model: ModelName,
    signature: Signature,
    images: ArrayLike,
    parameters: Mapping[str, ArrayLike | None],
    outputs: Outputs,
) -> Request:
    """A Predict request for one `explain_<method>` signature.

    Every parameter of the signature is sent as a vector [B]: the given value, or the default of the
    server's metadata or the model's table; the server's own defaults are scalars, which its batching refuses.
    `parameters` are the signature's (`check_parameters`); None stands for the default.

    Raises:
        InputError: images or a parameter do not fit the signature, or a parameter has no known default.
    """
    arrays = checked_inputs(signature, images, parameters)
    batch = arrays["images"].shape[0]
    light = set(signature.outputs) - signature.large
    # A TensorFlow session prepares its graph anew, for seconds, for every set of outputs that is new to it.
    # The light ones cost next to nothing, so they always come along, and there are few sets to prepare for.
    return _request(
        model, signature, arrays, tuple(sorted({*light, *_chosen(outputs, signature, light)})), batch
    )


def checked_inputs(
    signature: Signature,
    images: ArrayLike,
    parameters: Mapping[str, ArrayLike | None],
    *,
    in_parts: str | None = None,
) -> dict[str, Array]:
    """All inputs of an `explain_<method>` signature by name: images [B, …], and each parameter [B].

    Args:
        signature: of the method.
        images: [B, …], or one without its batch axis.
        parameters: by name; None stands for the default.
        in_parts: a parameter that is asked for in parts, and may be above its bound.

    Raises:
        InputError: as `explain_request`.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    for name, value in given.items():
        check_bounds(signature, name, value, in_parts=name == in_parts)
    arrays = {"images": _images(images, _input(signature, "images"))}
    values = {**signature.defaults, **given}
    _check_complete(signature, {"images", *values})
    for name, spec in signature.inputs.items():
        if name != "images":
            arrays[name] = _parameter(values[name], spec, arrays["images"].shape[0])
    return arrays


def check_bounds(signature: Signature, name: str, value: ArrayLike, *, in_parts: bool = False) -> None:
    """Refuse a value of a parameter that the model refuses, as far as the model tells its bounds.

    What is no number is left to the checks of types.

    Args:
        signature: of a method.
        name: of the parameter.
        value: one, or one for each image.
        in_parts: whether it is asked for in parts, so that its greatest value bounds each of them.

    Raises:
        InputError: it is outside the bounds; the message names the parameter, the value and the bounds.
    """
    if name not in signature.bounds or name not in signature.inputs:
        return
    low, high = signature.bounds[name]
    array = _array(value, name)
    if array.dtype.kind not in "fiu":
        return
    dtype, words = signature.inputs[name].dtype, bounds_in_words(signature, name)
    whole = dtype.startswith(("int", "uint"))
    if not whole:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    elif low is None and high is None:
        limits = np.iinfo(dtype)
        low, high = int(limits.min), int(limits.max)
        words = f"in [{low}, {high}]"
    inside = np.isfinite(array)
    if low is not None:
        inside &= array >= (low if whole else np.float32(low))
    if high is not None and not in_parts:
        inside &= array <= (high if whole else np.float32(high))
    if not inside.all():
        first = array[~inside].ravel()[0] if array.ndim else array[()]
        raise InputError(
            f"{name} is {str(first).removesuffix('.0')}; it must be {words}",
            hint="signatures() has the bounds of all parameters",
            signature=signature.name,
        )


def bounds_in_words(signature: Signature, name: str) -> str:
    """What a parameter must be, after "it must be", as the model itself says it."""
    low, high = signature.bounds[name]
    if name == CLASS_INDEX and low == -1:
        return f"in [0, {high}], or -1 for the predicted class"
    if low is not None and high is not None:
        return f"in [{low:g}, {high:g}]" if isinstance(high, float) else f"in [{low}, {high}]"
    finite = "" if signature.inputs[name].dtype.startswith(("int", "uint")) else "a finite number"
    bound = f"at least {low:g}" if low is not None else f"at most {high:g}" if high is not None else ""
    return ", ".join(part for part in (finite, bound) if part) or "a whole number"


def predict_request(
    model: ModelName,
    signature: Signature,
    images: ArrayLike | Mapping[str, ArrayLike],
    outputs: Outputs,
    *,
    complete: bool = False,
) -> Request:
    """A Predict request for any signature: an array for its only input, or a mapping for several.

    What is left out is left to the server, which fills in its defaults; with `complete` it is sent.

    Raises:
        InputError: an input is missing, unknown, or does not fit the signature.
    """
    if isinstance(images, Mapping):
        given = dict(images)
    elif len(signature.inputs) == 1 or "images" in signature.inputs:
        given = {"images" if "images" in signature.inputs else next(iter(signature.inputs)): images}
    else:
        names = ", ".join(signature.inputs)
        raise InputError(
            f"{signature.name} has several inputs: {names}",
            hint="give a mapping of input name to array",
            signature=signature.name,
        )
    for name in given:
        _input(signature, name)
    _check_complete(signature, {*signature.defaults, *given})
    arrays = {name: _images(value, signature.inputs[name]) for name, value in given.items()}
    if complete:
        batch = next((array.shape[:1] for array in arrays.values() if array.ndim), ())
        arrays |= {
            name: np.full(batch, default, default.dtype)
            for name, default in signature.defaults.items()
            if name not in arrays
        }
    return _request(model, signature, arrays, _chosen(outputs, signature, list(signature.outputs)), None)


def defaults_request(model: ModelName, table: Signature) -> Request:
    """A Predict request for one row of the table of defaults."""
    return _request(model, table, {"rows": np.zeros(1, np.int32)}, tuple(table.outputs), 1)


def names_request(model: ModelName, signature: Signature, classes: range) -> Request:
    """A Predict request for the names of some classes; the input `labels` is there for its default alone."""
    arrays = {"labels": np.full(len(classes), b"", object), "class_index": np.array(classes, np.int32)}
    return _request(model, signature, arrays, ("labels",), len(classes))


def bounds_request(model: ModelName, table: Signature, names: Sequence[str]) -> Request:
    """A Predict request for bounds of parameters; the input `bounds` is there for its default alone."""
    arrays = {"parameter": np.array(names, object), "bounds": np.zeros((len(names), 2))}
    return _request(model, table, arrays, ("bounds",), len(names))


def _check_complete(signature: Signature, known: Container[str]) -> None:
    missing = [name for name in signature.inputs if name not in known]
    if missing:
        needed = ", ".join(missing)
        raise InputError(
            f"{signature.name} needs {needed}",
            hint=None
            if "images" in missing
            else f"give {needed}: the server returned no default, and the model has no signature "
            "parameter_defaults that tells one",
            signature=signature.name,
        )


def _request(
    model: ModelName,
    signature: Signature,
    arrays: Mapping[str, Array],
    outputs: tuple[str, ...],
    batch: int | None,
) -> Request:
    size = sum(array.nbytes for array in arrays.values())
    if size > _LARGEST_MESSAGE - 65_536:
        raise InputError(
            f"the request would be {size} bytes; gRPC carries at most {_LARGEST_MESSAGE}",
            hint="send fewer images at a time; explain_many(batch_size=…) does it",
            signature=signature.name,
        )
    message = tfs.PredictRequest(model_spec=model.spec(signature.name), output_filter=outputs)
    inputs = {name: serialized(array) for name, array in arrays.items()}
    return Request(join_request(message, inputs), signature, outputs, batch)


def _input(signature: Signature, name: str) -> TensorSpec:
    if name not in signature.inputs:
        raise InputError(
            f"{signature.name} has no input {name!r}; it has {', '.join(signature.inputs) or 'none'}",
            signature=signature.name,
        )
    return signature.inputs[name]


def _chosen(outputs: Outputs, signature: Signature, default: Iterable[str]) -> tuple[str, ...]:
    """The outputs to ask for, sorted: the server's batching keeps one queue for each list of names."""
    if outputs is None:
        return tuple(sorted(default))
    if isinstance(outputs, str):
        names = list(signature.outputs) if outputs == "all" else [outputs]
    else:
        names = list(outputs) if isinstance(outputs, Iterable) else [outputs]
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"outputs is {outputs!r}; it takes names of outputs, or 'all'")
    chosen = sorted(set(names))
    unknown = [name for name in chosen if name not in signature.outputs]
    if unknown or not chosen:
        asked = f"{signature.name} has no output {unknown[0]!r}" if unknown else "outputs is empty"
        raise InputError(f"{asked}; there are {', '.join(signature.outputs)}", signature=signature.name)
    return tuple(chosen)


def _images(value: ArrayLike, spec: TensorSpec) -> Array:
    """The array to send for an input with a batch; one example without its batch axis gets it.

    Raises:
        InputError: the dtype or the size is not the signature's; nothing is cast or resized silently.
    """
    array = _array(value, spec.name)
    if spec.shape is not None and array.ndim == len(spec.shape) - 1 and spec.shape[0] is None:
        array = array[None]
    array = _with_dtype(array, spec)
    if spec.shape is None:
        return array
    if not _fits(array.shape, spec.shape):
        raise InputError(
            f"{spec.name} is {_size(array.shape)}; the model takes {_size(spec.shape)}",
            hint=shape_hint(spec.name, array.shape, spec.shape),
        )
    if array.ndim and array.shape[0] == 0:
        raise InputError(f"{spec.name} holds no image: its shape is {_size(array.shape)}")
    return array


def _array(value: ArrayLike, name: str) -> Array:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InputError(
            f"{name} does not form one array: {error}", hint="all images of a call must have one size"
        ) from error


def _with_dtype(array: Array, spec: TensorSpec) -> Array:
    have = "string" if array.dtype.kind in "OSU" else array.dtype.name
    if have == spec.dtype:
        return array
    if spec.dtype == "float32" and array.dtype.kind == "f":
        return array.astype(np.float32)
    hint = f"convert first: {spec.name}.astype('{spec.dtype}')"
    if have == "string":
        hint = "give an array of pixels: load_image(path, size=(height, width)).array reads a picture file"
    if spec.dtype == "uint8" and array.dtype.kind == "f":
        hint = (
            "the model's preprocessing is part of it: give the picture's own 0..255 values, as in "
            f"(255 * {spec.name}).round().astype('uint8') where they are 0..1"
        )
    elif spec.dtype == "float32" and have == "uint8":
        hint = "this model has no preprocessing of its own: give the values its network takes, as float32"
    raise InputError(f"{spec.name} is {have}; the model takes {spec.dtype}", hint=hint)


def _fits(have: tuple[int, ...], want: tuple[int | None, ...]) -> bool:
    return len(have) == len(want) and all(w is None or w == h for w, h in zip(want, have, strict=True))


def _size(shape: Iterable[int | None]) -> str:
    return "[" + ",".join("B" if size is None else str(size) for size in shape) + "]"


def _parameter(value: ArrayLike, spec: TensorSpec, batch: int) -> Array:
    """A parameter as the vector [B] that the signature wants, each image its own value."""
    array = _array(value, spec.name)
    if spec.dtype.startswith(("int", "uint")):
        array = _whole(array, spec)
    elif array.dtype.kind not in "fiu":
        raise InputError(f"{spec.name} is {value!r}; it takes numbers")
    if array.size == 1:
        array = np.broadcast_to(array.reshape(()), (batch,))
    if array.shape != (batch,):
        raise InputError(
            f"{spec.name} has shape {_size(array.shape)}; give one value, or one for each of {batch} images"
        )
    return array.astype(spec.dtype)


def _whole(array: Array, spec: TensorSpec) -> Array:
    if array.dtype.kind not in "iu":
        raise InputError(f"{spec.name} is {array.tolist()!r}; it takes whole numbers")
    bounds = np.iinfo(spec.dtype)
    for value in array.ravel().tolist():
        if not bounds.min <= operator.index(value) <= bounds.max:
            raise InputError(f"{spec.name} is {value}; it must be within [{bounds.min}, {bounds.max}]")
    return array


@dataclass(frozen=True)
class Answer:
    """The decoded outputs of one Predict call, and what gave them (version 0: the server did not say)."""

    outputs: Mapping[str, Array]
    version: int
    signature: Signature


def parse_answer(answer: bytes, request: Request) -> Answer:
    """The outputs of a PredictResponse, checked against what was asked and what the signature promises.

    Raises:
        AnswerError: it is truncated, lacks an output, or a dtype or shape is not as promised.
    """
    try:
        response, tensors = split_answer(answer)
    except DecodeError as error:
        raise AnswerError("the answer is not a PredictResponse, or is cut short") from error
    missing = [name for name in request.outputs if name not in tensors]
    if missing:
        raise AnswerError(f"the answer lacks {', '.join(missing)}")
    outputs = {
        name: decode(tensors[name].proto, name, payload=tensors[name].payload) for name in request.outputs
    }
    for name, array in outputs.items():
        _check_output(array, request.signature.outputs[name], request.batch)
    return Answer(outputs, response.model_spec.version.value, request.signature)


def _check_output(array: Array, spec: TensorSpec, batch: int | None) -> None:
    have = "string" if array.dtype.kind == "O" else array.dtype.name
    want = spec.shape
    if batch is not None and want:
        want = (batch, *want[1:])
    if have != spec.dtype or not (want is None or _fits(array.shape, want)):
        promised = f"{spec.dtype}{_size(want) if want is not None else ''}"
        raise AnswerError(
            f"output {spec.name!r} is {have}{_size(array.shape)}; its signature says {promised}"
        )


def parse_status(answer: bytes) -> tuple[VersionStatus, ...]:
    """The versions that a GetModelStatusResponse tells of, newest first.

    Raises:
        AnswerError: the bytes are not such an answer.
    """
    try:
        response = tfs.GetModelStatusResponse.FromString(answer)
    except DecodeError as error:
        raise AnswerError("the answer is not a GetModelStatusResponse") from error
    versions = [_version_status(status) for status in response.model_version_status]
    return tuple(sorted(versions, key=lambda status: -status.version))


@dataclass(frozen=True)
class VersionStatus:
    """One version of a served model.

    `state` is START, LOADING, AVAILABLE, UNLOADING, END or UNKNOWN. `error_code` is 0 unless loading
    failed; `error_message` then says why.

    Example:
        >>> [version.available for version in client.status()]
        [True]
    """

    version: int
    state: str
    error_code: int = 0
    error_message: str = ""

    @property
    def available(self) -> bool:
        """Whether this version answers requests."""
        return self.state == "AVAILABLE"

    @property
    def failed(self) -> bool:
        """Whether this version could not be loaded."""
        return self.state == "END" and self.error_code != 0


def _version_status(proto: tfs.ModelVersionStatus) -> VersionStatus:
    known = tfs.ModelVersionStatus.State.DESCRIPTOR.values_by_number
    state = known[proto.state].name if proto.state in known else str(proto.state)
    return VersionStatus(proto.version, state, proto.status.error_code, proto.status.error_message)
