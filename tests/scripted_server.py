"""TensorFlow Serving's services on the official stubs, for a linear classifier; they fail on cue."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

MODEL = "linear"
CLASSES = 4
TYPES = {
    np.dtype("float32"): (types_pb2.DT_FLOAT, "float_val"),
    np.dtype("float64"): (types_pb2.DT_DOUBLE, "double_val"),
    np.dtype("int32"): (types_pb2.DT_INT32, "int_val"),
    np.dtype("uint8"): (types_pb2.DT_UINT8, "int_val"),
    np.dtype("O"): (types_pb2.DT_STRING, "string_val"),
}
DEFAULTS = {
    "explain_gradients": {"class_index": np.int32(-1)},
    "explain_smooth": {
        "class_index": np.int32(-1),
        "num_samples": np.int32(50),
        "noise_level": np.float32(0.15),
        "seed": np.int32(0),
    },
}
SAMPLED_DEFAULTS = {"first_sample": np.int32(0), "target_error": np.float32(0)}
"""Of `explain_smooth`, beside those above, where `model.sampled`: an export that samples in slices."""
WAVES = 18
"""Of `explain_smooth` where `model.sampled`: sample i is 1 ± noise_level · WAVES times the gradient."""
SHARES_DEFAULTS = {"class_index": np.int32(-1), "num_steps": np.int32(32), "baseline": np.float32(0)}
"""Of `explain_shares`, a method of attribution that no client has heard of; served where `model.shares`."""


class Fail(Exception):
    """Answer with this status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


@dataclass
class LinearModel:
    """score_c(x) = Σ w_c·x, so that the gradient for class c is w_c for every image."""

    height: int = 6
    width: int = 5
    dtype: str = "uint8"
    version: int = 1
    name: str = MODEL
    shares: bool = False
    sampled: bool = False
    bounded: bool = False
    most_samples: int = 1000
    quantities: tuple[str, ...] = ("logits", "probabilities")
    names: tuple[str, ...] = tuple(f"class {index}" for index in range(CLASSES))
    weights: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        generator = np.random.default_rng(self.version)
        self.weights = generator.normal(size=(CLASSES, self.height, self.width, 3)).astype(np.float32)

    def scores(self, images: np.ndarray) -> np.ndarray:
        return np.einsum("bhwc,khwc->bk", images.astype(np.float32), self.weights)

    def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        logits = self.scores(images)
        exponents = np.exp((logits - logits.max(axis=1, keepdims=True)) / 1000)
        return {"logits": logits, "probabilities": exponents / exponents.sum(axis=1, keepdims=True)}

    def sample(self, outputs: dict[str, np.ndarray], inputs: dict[str, np.ndarray]) -> None:
        """Sample by sample, as the contract says it: mean, variance, error, and when it is small enough."""
        gradients = outputs["gradients"].astype(np.float64)
        rows: dict[str, list[np.ndarray | float | int]] = {
            name: [] for name in ("gradients", "variance", "relative_error", "standard_error", "samples_used")
        }
        for row, gradient in enumerate(gradients):
            first, seed, bound = (int(inputs[name][row]) for name in ("first_sample", "seed", "num_samples"))
            if bound < 1:
                raise Fail(
                    grpc.StatusCode.INVALID_ARGUMENT, f"num_samples is {bound}; it must be in [1, 1000]"
                )
            for n in range(1, bound + 1) if inputs["target_error"][row] > 0 else [bound]:
                signs = (-1.0) ** (seed + first + np.arange(n))
                factors = 1 + inputs["noise_level"][row] * WAVES * signs
                with np.errstate(all="ignore"):
                    spread = np.float64(((factors - factors.mean()) ** 2).sum()) / np.float64(n - 1)
                    noise, power = spread / n * (gradient**2).sum(), (factors.mean() * gradient) ** 2
                    error = np.sqrt(noise / np.maximum(power.sum() - noise, 0))
                if n % 10 == 0 and error <= inputs["target_error"][row]:
                    break
            made = (factors.mean() * gradient, spread * gradient**2, error, np.sqrt(noise), n)
            for values, one in zip(rows.values(), made, strict=True):
                values.append(one)
        for name, values in rows.items():
            outputs[name] = np.array(values, np.int32 if name == "samples_used" else np.float32)
        outputs["saliency"] = np.abs(outputs["gradients"]).max(axis=-1)

    def explain(self, images: np.ndarray, class_index: np.ndarray) -> dict[str, np.ndarray]:
        predictions = self.predict(images)
        chosen = np.where(class_index == -1, predictions["logits"].argmax(axis=1), class_index).astype(
            np.int32
        )
        if (bad := class_index[(class_index < -1) | (class_index >= CLASSES)]).size:
            raise Fail(grpc.StatusCode.INVALID_ARGUMENT, f"class_index {bad[0]} is outside [-1, {CLASSES})")
        rows = np.arange(len(images))
        gradients = self.weights[chosen]
        return {
            "gradients": gradients,
            "saliency": np.abs(gradients).max(axis=-1),
            "class_index": chosen,
            "score": predictions["logits"][rows, chosen],
            "probability": predictions["probabilities"][rows, chosen],
            "label": np.array([self.names[index].encode() for index in chosen], dtype=object),
        }


class ScriptedServer(
    prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer
):
    """The two services of one model; `script` holds what the next Predict calls do instead of answering."""

    def __init__(self, model: LinearModel) -> None:
        self.port = 0
        self.running = 0
        self._lock = threading.Lock()
        self.reset(model)

    def reset(self, model: LinearModel) -> None:
        """Serve this model as a server that has just started: whatever was set or counted is gone."""
        self.model = model
        self.typed_answers = True
        self.script: deque[Callable[[predict_pb2.PredictRequest, grpc.ServicerContext], object]] = deque()
        self.tamper: Callable[[predict_pb2.PredictResponse], None] = lambda response: None
        self.corrupt: Callable[[bytes], bytes] = lambda answer: answer
        self.hidden: set[str] = set()
        self.withholds = False
        self.most_rows = 1000
        self.requests: list[predict_pb2.PredictRequest] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.metadata_calls = 0
        self.statuses = [(model.version, get_model_status_pb2.ModelVersionStatus.AVAILABLE, 0, "")]
        self.next_statuses: deque[list[tuple[int, int, int, str]]] = deque()
        self.abandoned = 0
        self.most_running = 0

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def fail(self, code: grpc.StatusCode, details: str, times: int = 1) -> None:
        """Answer the next Predict calls with a status."""

        def refuse(request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> None:
            context.abort(code, details)

        self.script.extend([refuse] * times)

    def hang(self) -> None:
        """Do not answer the next Predict call before the client gives up."""
        self.script.append(self.wait_for_the_client_to_leave)

    def wait_for_the_client_to_leave(self, request, context: grpc.ServicerContext) -> None:
        gone = threading.Event()
        if context.add_callback(gone.set):
            gone.wait(30)
        with self._lock:
            self.abandoned += 1

    def Predict(self, request, context):
        with self._lock:
            self.requests.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
            scripted = self.script.popleft() if self.script else None
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            if scripted is not None and (answer := scripted(request, context)) is not None:
                return answer
            return self._answer(request)
        except Fail as failure:
            context.abort(failure.code, failure.details)
        finally:
            with self._lock:
                self.running -= 1

    def GetModelMetadata(self, request, context):
        self.metadata_calls += 1
        self._check_model(request.model_spec, context)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = self.model.name
        response.model_spec.version.value = self.model.version
        shown = {name: one for name, one in signature_defs(self.model).items() if name not in self.hidden}
        for signature in shown.values() if self.withholds else ():
            signature.ClearField("defaults")
        response.metadata["signature_def"].Pack(get_model_metadata_pb2.SignatureDefMap(signature_def=shown))
        return response

    def GetModelStatus(self, request, context):
        if request.model_spec.name != self.model.name:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {request.model_spec.name}"
            )
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, state, code, message in (
            self.next_statuses.popleft() if self.next_statuses else self.statuses
        ):
            status = response.model_version_status.add(version=version, state=state)
            status.status.error_code, status.status.error_message = code, message
        return response

    def _check_model(self, spec, context) -> None:
        if spec.name != self.model.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({spec.name})")
        if spec.version_label:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Unrecognized servable version label: {spec.version_label}",
            )

    def _answer(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        name = request.model_spec.signature_name
        inputs = {key: from_proto(value) for key, value in request.inputs.items()}
        if name == "serving_default":
            known = self.model.predict(inputs["images"])
            outputs = {quantity: known[quantity] for quantity in self.model.quantities}
        elif name == "explain_gradients":
            outputs = self.model.explain(inputs["images"], inputs["class_index"])
        elif name == "explain_smooth":
            outputs = self.model.explain(inputs["images"], inputs["class_index"])
            if self.model.sampled:
                self.model.sample(outputs, inputs)
                return self._response(request, name, outputs)
            outputs["variance"] = np.broadcast_to(
                inputs["noise_level"][:, None, None, None], outputs["gradients"].shape
            )
            outputs["relative_error"] = 1 / np.sqrt(inputs["num_samples"]).astype(np.float32)
        elif name == "explain_shares" and self.model.shares:
            outputs = self.model.explain(inputs["images"], inputs["class_index"])
            given = inputs["images"] - inputs["baseline"][:, None, None, None]
            outputs["attributions"] = (outputs.pop("gradients") * given).astype(np.float32)
            outputs["saliency"] = np.abs(outputs["attributions"].sum(axis=-1))
            outputs["completeness_error"] = 1 / inputs["num_steps"].astype(np.float32)
            outputs["steps_used"] = inputs["num_steps"]
        elif name == "class_labels":
            self._check_rows(inputs["class_index"], inputs["labels"])
            outputs = {
                "labels": np.array([self.model.names[i].encode() for i in inputs["class_index"]], object)
            }
        elif name == "parameter_defaults":
            self._check_rows(inputs["rows"])
            outputs = {
                output: np.full(len(inputs["rows"]), value) for output, value in parameter_defaults().items()
            }
        elif name == "parameter_bounds" and self.model.bounded:
            self._check_rows(inputs["parameter"], inputs["bounds"][:, 0])
            known = parameter_bounds(self.model)
            outputs = {"bounds": np.array([known[key.decode()] for key in inputs["parameter"]], np.float64)}
        else:
            raise Fail(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        return self._response(request, name, outputs)

    def _response(
        self, request: predict_pb2.PredictRequest, name: str, outputs: dict[str, np.ndarray]
    ) -> predict_pb2.PredictResponse:
        response = predict_pb2.PredictResponse()
        response.model_spec.name = self.model.name
        response.model_spec.version.value = self.model.version
        response.model_spec.signature_name = name
        for key in request.output_filter or outputs:
            response.outputs[key].CopyFrom(to_proto(outputs[key], typed=self.typed_answers))
        self.tamper(response)
        return response

    def _check_rows(self, *inputs: np.ndarray) -> None:
        """What TensorFlow Serving's batching asks of inputs."""
        if {array.shape for array in inputs} != {(len(inputs[0]),)}:
            raise Fail(
                grpc.StatusCode.INVALID_ARGUMENT,
                "Batching Run() input tensors must have equal 0th-dimension size",
            )
        if len(inputs[0]) > self.most_rows:
            raise Fail(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Task size {len(inputs[0])} is larger than maximum input batch size {self.most_rows}",
            )


class Corrupting(grpc.ServerInterceptor):
    """Lets a service change the bytes of its Predict answers."""

    def __init__(self, service: ScriptedServer) -> None:
        self.service = service

    def intercept_service(self, continuation, details):
        handler = continuation(details)
        if handler is None or not details.method.endswith("/Predict"):
            return handler
        serialize = handler.response_serializer
        return handler._replace(response_serializer=lambda answer: self.service.corrupt(serialize(answer)))


def from_proto(proto: tensor_pb2.TensorProto) -> np.ndarray:
    from tensorflow import make_ndarray

    return make_ndarray(proto)


def to_proto(array: np.ndarray, *, typed: bool) -> tensor_pb2.TensorProto:
    number, field_name = TYPES[array.dtype]
    proto = tensor_pb2.TensorProto(dtype=number, tensor_shape=shape_proto(array.shape))
    if typed or array.dtype == object:
        getattr(proto, field_name).extend(array.ravel().tolist())
    else:
        proto.tensor_content = array.tobytes()
    return proto


def shape_proto(shape: tuple[int, ...]) -> tensor_shape_pb2.TensorShapeProto:
    return tensor_shape_pb2.TensorShapeProto(
        dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=n) for n in shape]
    )


def signature_defs(model: LinearModel) -> dict[str, meta_graph_pb2.SignatureDef]:
    images = ("uint8" if model.dtype == "uint8" else "float32", (-1, model.height, model.width, 3))
    maps = {
        "gradients": ("float32", (-1, model.height, model.width, 3)),
        "saliency": ("float32", (-1, model.height, model.width)),
        "class_index": ("int32", (-1,)),
        "score": ("float32", (-1,)),
        "probability": ("float32", (-1,)),
        "label": ("O", (-1,)),
    }
    names = np.array([name.encode() for name in model.names], dtype=object)
    shares = signature_def(
        {
            "images": images,
            "class_index": ("int32", None),
            "num_steps": ("int32", None),
            "baseline": ("float32", None),
        },
        {
            **{name: spec for name, spec in maps.items() if name != "gradients"},
            "attributions": maps["gradients"],
            "completeness_error": ("float32", (-1,)),
            "steps_used": ("int32", (-1,)),
        },
        SHARES_DEFAULTS,
    )
    known = parameter_bounds(model)
    bounds = signature_def(
        {"parameter": ("O", (-1,)), "bounds": ("float64", (-1, 2))},
        {"bounds": ("float64", (-1, 2))},
        {
            "parameter": np.array([name.encode() for name in known], object),
            "bounds": np.array(list(known.values()), np.float64),
        },
    )
    return {
        **({"explain_shares": shares} if model.shares else {}),
        **({"parameter_bounds": bounds} if model.bounded else {}),
        "class_labels": signature_def(
            {"labels": ("O", (-1,)), "class_index": ("int32", (-1,))},
            {"labels": ("O", (-1,))},
            {"labels": names, "class_index": np.arange(CLASSES, dtype=np.int32)},
        ),
        "parameter_defaults": signature_def(
            {"rows": ("int32", (-1,))},
            {name: (value.dtype.name, (-1,)) for name, value in parameter_defaults().items()},
            {"rows": np.zeros(1, np.int32)},
        ),
        "serving_default": signature_def(
            {"images": images},
            {quantity: ("float32", (-1, len(model.weights))) for quantity in model.quantities},
            {},
        ),
        "explain_gradients": signature_def(
            {"images": images, "class_index": ("int32", None)}, maps, DEFAULTS["explain_gradients"]
        ),
        "explain_smooth": signature_def(
            {
                "images": images,
                "class_index": ("int32", None),
                "num_samples": ("int32", None),
                "noise_level": ("float32", None),
                "seed": ("int32", None),
                **(
                    {"first_sample": ("int32", None), "target_error": ("float32", None)}
                    if model.sampled
                    else {}
                ),
            },
            {
                **maps,
                "variance": maps["gradients"],
                "relative_error": ("float32", (-1,)),
                **(
                    {"standard_error": ("float32", (-1,)), "samples_used": ("int32", (-1,))}
                    if model.sampled
                    else {}
                ),
            },
            {**DEFAULTS["explain_smooth"], **(SAMPLED_DEFAULTS if model.sampled else {})},
        ),
    }


def parameter_bounds(model: LinearModel) -> dict[str, tuple[float, float]]:
    """What the signature parameter_bounds tells, where `model.bounded`; also of a signature that is gone."""
    return {
        "explain_gradients/class_index": (-1, CLASSES - 1),
        "explain_smooth/class_index": (-1, CLASSES - 1),
        "explain_smooth/num_samples": (1, model.most_samples),
        "explain_smooth/noise_level": (0, float(np.float32(0.9))),
        "explain_smooth/seed": (np.iinfo(np.int32).min, np.iinfo(np.int32).max),
        "explain_smooth/first_sample": (0, 2**30),
        "explain_smooth/target_error": (0, float(np.finfo(np.float32).max)),
        "explain_removed/seed": (0, 1),
    }


def parameter_defaults() -> dict[str, np.generic]:
    """What the signature parameter_defaults tells: each default, by `<signature>/<parameter>`."""
    return {f"{name}/{key}": value for name, values in DEFAULTS.items() for key, value in values.items()}


def signature_def(inputs, outputs, defaults) -> meta_graph_pb2.SignatureDef:
    proto = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    for specs, infos in ((inputs, proto.inputs), (outputs, proto.outputs)):
        for name, (dtype, shape) in specs.items():
            infos[name].name = f"{name}:0"
            infos[name].dtype = TYPES[np.dtype(dtype)][0]
            if shape is None:
                infos[name].tensor_shape.unknown_rank = True
            else:
                infos[name].tensor_shape.CopyFrom(shape_proto(shape))
    for name, value in defaults.items():
        proto.defaults[name].CopyFrom(to_proto(np.asarray(value), typed=True))
    return proto


@contextmanager
def nobody() -> Iterator[str]:
    """A target that refuses connections. Its port is bound, so that no other server gets it meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def serving(
    model: LinearModel | None = None,
    *,
    port: int = 0,
    address: str | None = None,
    credentials: grpc.ServerCredentials | None = None,
    workers: int = 8,
) -> Iterator[ScriptedServer]:
    """A running server on a free port of 127.0.0.1, or at another address."""
    service = ScriptedServer(model or LinearModel())
    server = grpc.server(
        futures.ThreadPoolExecutor(workers),
        interceptors=[Corrupting(service)],
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    address = address or f"127.0.0.1:{port}"
    service.port = (
        server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    )
    server.start()
    try:
        yield service
    finally:
        server.stop(None).wait(10)


@contextmanager
def later(model: LinearModel | None = None, *, port: int = 0) -> Iterator[int]:
    """A port where the first connection is closed at once, and a server runs soon after that."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", port)) as nobody:
        port = nobody.getsockname()[1]
        nobody.settimeout(30)

        def come_up() -> None:
            with nobody:
                nobody.accept()[0].close()
            with serving(model, port=port):
                ended.wait(60)

        thread = threading.Thread(target=come_up)
        thread.start()
        try:
            yield port
        finally:
            ended.set()
            thread.join(60)
