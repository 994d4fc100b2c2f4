"""What SageMaker's TensorFlow Serving container runs for each request: a picture or an array in, maps out.

The container imports this file from `code/` of model.tar.gz and calls `handler(data, context)`. The server in
the same container computes the maps; the client that lies beside this file asks its gRPC port.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

import falcon
import numpy as np


def _let_others_run_while_grpc_waits() -> None:
    """The container's workers are gevent's: a wait in gRPC would stop every other request, and /ping."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        from grpc.experimental import gevent

        gevent.init_gevent()


_let_others_run_while_grpc_waits()

from saliency_client import SaliencyClient, SaliencyError  # noqa: E402
from saliency_client.images import load_image  # noqa: E402

JSON = "application/json"
NPY = "application/x-npy"
NPZ = "application/x-npz"
PICTURES = ("image/", "application/x-image")

DEFAULT_METHOD = "gradients"

_MODEL_IN_URI = re.compile(r"/v1/models/([^/:]+)")
_HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


def handler(data: Any, context: Any) -> tuple[bytes, str]:
    """Answers one request of /invocations.

    Args:
        data: the body, a stream.
        context: the container's Context; read are grpc_port, rest_uri, model_name, model_version, timeout,
            request_content_type, accept_header and custom_attributes.

    Returns:
        The body and its content type.

    Raises:
        falcon.HTTPError: what is wrong with the request (400, 406, 415), or what the server said.
    """
    answers = _answer_type(context.accept_header)
    client = _client(context.grpc_port, _model(context), context.model_version, float(context.timeout))
    try:
        asked = _read(data.read(), context, client)
        explanation = client.explain(asked.pop("images"), **asked)
        outputs = {name: np.asarray(explanation[name]) for name in explanation.outputs}
    except SaliencyError as error:
        code = getattr(error.code, "name", "INVALID_ARGUMENT")
        raise _refusal(_HTTP_STATUS.get(code, 500), str(error)) from error
    return (_npz(outputs), NPZ) if answers == NPZ else (_json(outputs), JSON)


def _answer_type(accept: str | None) -> str:
    wanted = [one.partition(";")[0].strip().lower() for one in (accept or JSON).split(",")]
    for one in wanted:
        if one == NPZ:
            return NPZ
        if one in (JSON, "*/*", "application/*", ""):
            return JSON
    raise _refusal(406, f"the answer can be {JSON} or {NPZ}, not {accept}")


def _model(context: Any) -> str:
    """The model's name; the container gives it in the address of its REST port in any case."""
    if context.model_name:
        return str(context.model_name)
    match = _MODEL_IN_URI.search(urlsplit(context.rest_uri).path)
    if match is None:
        raise _refusal(500, f"no model is named in {context.rest_uri}")
    return unquote(match[1])


@cache
def _client(port: str, model: str, version: str | None, timeout: float) -> SaliencyClient:
    """One client for each model, kept: it connects once and learns the signatures once."""
    number = int(version) if version else None
    return SaliencyClient(f"localhost:{port}", model=model, version=number, timeout=timeout)


def _read(body: bytes, context: Any, client: SaliencyClient) -> dict[str, Any]:
    """The arguments of `client.explain`."""
    kind = (context.request_content_type or JSON).partition(";")[0].strip().lower()
    asked = _attributes(context.custom_attributes)
    picture = None
    if kind == JSON:
        asked |= _object(body)
        if "b64" in asked:
            picture = _decoded(asked.pop("b64"))
    elif kind == NPY:
        asked["images"] = _array(body)
    elif kind.startswith(PICTURES):
        picture = body
    else:
        raise _refusal(415, f"the request is {kind}; it can be {JSON}, {NPY}, image/jpeg or image/png")
    method = asked.setdefault("method", DEFAULT_METHOD)
    signature = client.signatures().get(f"explain_{method}")
    if signature is None:
        raise _refusal(400, f"the model has no method {method!r}; it has {', '.join(client.methods())}")
    spec = signature.inputs["images"]
    if picture is not None:
        asked["images"] = _picture(
            picture, signature.image_size, spec.shape[3] if signature.has_channels else 1
        )
        if not signature.has_channels:
            asked["images"] = asked["images"][..., 0]
    elif "images" not in asked:
        raise _refusal(
            400, 'the object has neither "images", lists of numbers, nor "b64", an encoded picture'
        )
    elif kind == JSON:
        asked["images"] = _numbers(asked["images"], spec.dtype)
    return asked


def _attributes(header: str | None) -> dict[str, Any]:
    """Of the header X-Amzn-SageMaker-Custom-Attributes: "method=smooth,num_samples=20,outputs=gradients"."""
    asked: dict[str, Any] = {}
    for item in filter(None, (header or "").split(",")):
        name, given, value = (part.strip() for part in item.partition("="))
        if name.startswith("tfs-"):  # the container's own
            continue
        if not given or not name.isidentifier():
            raise _refusal(400, f"the custom attributes have {item.strip()!r}, which is not NAME=VALUE")
        asked[name] = value if name in ("method", "outputs") else _number(name, value)
    if "outputs" in asked:
        asked["outputs"] = asked["outputs"].split("+")
    return asked


def _number(name: str, value: str) -> int | float:
    for read in (int, float):
        try:
            return read(value)
        except ValueError:
            continue
    raise _refusal(400, f"the custom attribute {name} is {value!r}, which is no number")


def _object(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _refusal(400, f"the request is not JSON: {error}") from error
    if not isinstance(asked, dict):
        raise _refusal(400, 'the request is not an object such as {"images": [...], "method": "smooth"}')
    return asked


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise _refusal(400, f'"b64" is not base64: {error}') from error


def _array(body: bytes) -> np.ndarray:
    try:
        return np.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _refusal(400, f"the request is not a .npy file: {error}") from error


def _picture(content: bytes, size: tuple[int, int], channels: int) -> np.ndarray:
    try:
        return load_image(content, size, channels=channels).array
    except ImportError as error:
        raise _refusal(501, f"pictures need Pillow in the container: {error}") from error
    except (ValueError, OSError, SaliencyError) as error:
        raise _refusal(400, f"the picture cannot be read: {error}") from error


def _numbers(lists: Any, dtype: str) -> np.ndarray:
    """Lists of numbers as the model's dtype; pixels that are none are refused, and never wrapped."""
    try:
        array = np.array(lists)
    except ValueError as error:
        raise _refusal(400, f'"images" is ragged: {error}') from error
    if array.dtype.kind not in "iuf":
        raise _refusal(400, '"images" holds something that is not a number')
    if dtype == "uint8" and (
        array.dtype.kind == "f" or array.min(initial=0) < 0 or array.max(initial=0) > 255
    ):
        raise _refusal(400, '"images" takes whole numbers from 0 to 255')
    return array.astype(dtype)


def _npz(outputs: Mapping[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    plain = {name: array.astype(str) if array.dtype == object else array for name, array in outputs.items()}
    np.savez_compressed(file, **plain)
    return file.getvalue()


def _json(outputs: Mapping[str, np.ndarray]) -> bytes:
    """Lists by output; a float with the digits that make it again, NaN and infinity as null."""
    return json.dumps({name: _lists(array) for name, array in outputs.items()}, allow_nan=False).encode()


def _lists(array: np.ndarray) -> Any:
    if array.dtype.kind != "f":
        return array.tolist()
    short = np.array([float(f"{value:.9g}") for value in array.reshape(-1).tolist()], object)
    short[~np.isfinite(array.reshape(-1))] = None
    return short.reshape(array.shape).tolist()


def _refusal(status: int, text: str) -> falcon.HTTPError:
    return falcon.HTTPError(falcon.code_to_http_status(status), description=text)
