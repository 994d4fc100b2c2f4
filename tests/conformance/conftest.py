"""Who is asked: the local server on the small exported classifier, or any address by --server and --model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from server_process import ServerProcess
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

SECONDS = 120


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--server", metavar="HOST:PORT", help="ask this server instead of starting the local one")
    group.addoption("--rest", metavar="URL", help="its REST API, such as http://localhost:8501")
    group.addoption("--model", default="classifier", help="the model's name there (default: classifier)")
    group.addoption("--label", metavar="LABEL", help="a version label that the server has")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of another server, tests that start one of their own are skipped before they export a model for it."""
    if config.getoption("--server", default=None) is not None:
        skipped = pytest.mark.skip(reason="needs a server that the test starts itself")
        for item in items:
            if "start_local" in item.fixturenames:
                item.add_marker(skipped)


@dataclass
class Server:
    """One server and one exported model on it, asked through the official stubs."""

    channel: grpc.Channel
    model: str
    rest_url: str | None = None

    def __post_init__(self) -> None:
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.predict_stub = prediction.Predict
        self.metadata_stub = prediction.GetModelMetadata
        self.status_stub = model_service_pb2_grpc.ModelServiceStub(self.channel).GetModelStatus
        self._signatures = None

    @classmethod
    def at(cls, target: str, model: str) -> Server:
        return cls(grpc.insecure_channel(target, [("grpc.max_receive_message_length", -1)]), model)

    def request(
        self, signature: str, inputs: dict[str, np.ndarray], outputs: tuple[str, ...] = ()
    ) -> predict_pb2.PredictRequest:
        request = predict_pb2.PredictRequest(output_filter=outputs)
        request.model_spec.name = self.model
        request.model_spec.signature_name = signature
        for alias, value in inputs.items():
            request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
        return request

    def predict(
        self, signature: str, *, outputs: tuple[str, ...] = (), **inputs: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Calls one signature; the answer as arrays, whichever encoding it came in."""
        return arrays(self.predict_stub(self.request(signature, inputs, outputs), timeout=SECONDS))

    def refusal(self, call: Callable, request: object) -> tuple[grpc.StatusCode, str]:
        """The status and the text of a call that has to fail."""
        with pytest.raises(grpc.RpcError) as raised:
            call(request, timeout=SECONDS)
        return raised.value.code(), raised.value.details()

    def refused(self, signature: str, *, outputs: tuple[str, ...] = (), **inputs: np.ndarray):
        return self.refusal(self.predict_stub, self.request(signature, inputs, outputs))

    def status_request(self, model: str, version: int | None = None):
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        if version is not None:
            request.model_spec.version.value = version
        return request

    def metadata_request(self, model: str, *fields: str):
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
        request.model_spec.name = model
        return request

    def available_version(self) -> int:
        states = self.status_stub(self.status_request(self.model), timeout=SECONDS).model_version_status
        available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        return max(status.version for status in states if status.state == available)

    @property
    def signatures(self) -> dict:
        if self._signatures is None:
            request = self.metadata_request(self.model, "signature_def")
            response = self.metadata_stub(request, timeout=SECONDS)
            signatures = get_model_metadata_pb2.SignatureDefMap()
            assert response.metadata["signature_def"].Unpack(signatures)
            self._signatures = dict(signatures.signature_def)
        return self._signatures

    @property
    def returns_defaults(self) -> bool:
        """Whether metadata has defaults: that of a TFRT servable has none."""
        return any(signature.defaults for signature in self.signatures.values())

    @property
    def fills_in_defaults(self) -> bool:
        """Whether Predict fills in defaults: they are scalars, which batching refuses, too."""
        request = self.request("explain_gradients", {"images": self.images(1)}, ("score",))
        try:
            self.predict_stub(request, timeout=SECONDS)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            return False
        return True

    def defaults(self, signature: str) -> dict[str, np.ndarray]:
        """A signature's defaults: of the metadata, or of the table that the model keeps."""
        if self.returns_defaults:
            told = self.signatures[signature].defaults
            return {name: tf.make_ndarray(value) for name, value in told.items()}
        table = self.predict("parameter_defaults", rows=np.zeros(1, np.int32))
        mine = f"{signature}/"
        return {name.removeprefix(mine): value[0] for name, value in table.items() if name.startswith(mine)}

    @staticmethod
    def bounds_request(names: list[str]) -> dict[str, np.ndarray]:
        """What the signature of bounds takes; its input `bounds` is there for its default alone."""
        return {
            "parameter": np.array([name.encode() for name in names], object),
            "bounds": np.zeros((len(names), 2)),
        }

    @property
    def explain_signatures(self) -> list[str]:
        return sorted(name for name in self.signatures if name.startswith("explain_"))

    def image_shape(self) -> tuple[int, ...]:
        shape = self.signatures["explain_gradients"].inputs["images"].tensor_shape
        return tuple(dim.size for dim in shape.dim[1:])

    def images(self, rows: int, seed: int = 0) -> np.ndarray:
        """Random pictures of the shape and dtype that the server's metadata tells."""
        info = self.signatures["explain_gradients"].inputs["images"]
        pixels = np.random.default_rng(seed).integers(0, 256, (rows, *self.image_shape()))
        return pixels.astype(tf.as_dtype(info.dtype).as_numpy_dtype)


def arrays(response: predict_pb2.PredictResponse) -> dict[str, np.ndarray]:
    return {
        alias: tf.io.parse_tensor(proto.SerializeToString(), proto.dtype).numpy()
        for alias, proto in response.outputs.items()
    }


@pytest.fixture(scope="session")
def under_test(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server under test."""
    target = request.config.getoption("--server", default=None)
    process = None
    if target is None:
        model_dir = request.getfixturevalue("exported_model")
        xla_cache = request.getfixturevalue("xla_cache")
        options = ("--label", "stable=1", "--encoding", "fields", "--rest-port", "0")
        process = ServerProcess(f"classifier={model_dir}", "--xla-cache", xla_cache, *options)
        target = process.target
    asked = Server.at(target, request.config.getoption("--model", default=None) or "classifier")
    asked.rest_url = process.rest_url if process else request.config.getoption("--rest", default=None)
    yield asked
    asked.channel.close()
    if process is not None:
        assert process.stop() == (0, "")


@pytest.fixture(scope="session")
def server_at() -> Callable[[str, str], Server]:
    """Makes the means to ask a server, from its address and its model's name."""
    return Server.at


@pytest.fixture(scope="session")
def server(under_test: Server) -> Server:
    """The server that a test asks; a module may put others in its place."""
    return under_test


@pytest.fixture(scope="session")
def label(request: pytest.FixtureRequest) -> str:
    """A label that the server under test has."""
    if request.config.getoption("--server", default=None) is None:
        return "stable"
    label = request.config.getoption("--label", default=None)
    if label is None:
        pytest.skip("give --label to ask for a version by its label")
    return label


@pytest.fixture
def start_local(xla_cache: Path) -> Iterator[Callable[..., tuple[Server, ServerProcess]]]:
    """Starts a local server with other options; these tests are skipped when another server is asked."""
    started: list[tuple[Server, ServerProcess]] = []

    def start(*arguments: str | Path) -> tuple[Server, ServerProcess]:
        process = ServerProcess(*arguments, "--xla-cache", xla_cache)
        started.append((Server.at(process.target, "classifier"), process))
        return started[-1]

    yield start
    for asked, process in started:
        asked.channel.close()
        process.process.kill()
        process.process.wait(10)
        process.process.stderr.close()
