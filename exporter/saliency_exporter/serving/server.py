"""The server process: models, services, its ports, a clean stop."""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import model_service_pb2_grpc, predict_pb2, prediction_service_pb2_grpc

from saliency_client._files import write_whole
from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.servable import Servable, load_servable
from saliency_exporter.runtime.tensor_protos import Encoding
from saliency_exporter.runtime.xla_cache import use_xla_cache, vouch_for_entries
from saliency_exporter.serving.admission import Admission
from saliency_exporter.serving.batching import BatchingParameters, BatchingSession
from saliency_exporter.serving.calls import Calls
from saliency_exporter.serving.model_config import ModelConfig
from saliency_exporter.serving.models import ModelManager
from saliency_exporter.serving.parsing import Messages
from saliency_exporter.serving.services import ModelService, PredictionService
from saliency_exporter.serving.tls import TlsFiles, server_credentials
from saliency_exporter.serving.withholding import Withheld, without_defaults
from saliency_exporter.version.warmup import count_warmup, replay_warmup

if TYPE_CHECKING:
    from saliency_exporter.serving.rest_server import RestServer

MAX_MESSAGE_BYTES = 2**31 - 1
HEALTH_NAMES = ("", "ModelService", "PredictionService")
REFLECTED_SERVICES = (
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
)

for _module in ("prediction_service_pb2", "model_service_pb2"):
    # Reflection needs their descriptors. The official modules were generated for an older protobuf: importing
    # one registers its descriptor and then fails.
    with suppress(AttributeError):
        import_module(f"tensorflow_serving.apis.{_module}")

# Threads beside those of running and waiting requests: they refuse what is too much and answer status, health
# and metadata while every place is taken.
_SPARE_THREADS = 8


class LocalServer:
    """TensorFlow Serving's gRPC protocol on the embedded TensorFlow, in this process.

    Args:
        models: model name to model base path, or a ModelConfig each.
        host: address to bind; a loopback address unless others shall reach it.
        port: 0 picks a free one.
        rest_port: also answer TensorFlow Serving's REST API, on this port; 0 picks a free one.
        rest_seconds: how long a REST request may take, as TensorFlow Serving's --rest_api_timeout_in_ms.
        encoding: how answers carry tensors: "fields" as TensorFlow Serving does by default, or
            "tensor_content" as with its --enable_serialization_as_tensor_content.
        warmup: replay the warmup records before a version is AVAILABLE.
        warmup_threads: records that are replayed side by side, as TensorFlow Serving's
            num_model_warmup_threads; 0 means one per core, and one with batching, since what is merged
            would not warm up the sizes that it is made of.
        poll_seconds: how often to look for new versions; 0 means never.
        reread: called at every look for the models to serve from then on; see ModelManager.reconfigure.
        running: requests that run side by side; 0 means one per core, at least 2.
        waiting: requests that may wait for a place; the next is refused with UNAVAILABLE.
        batching: merge requests as TensorFlow Serving's --enable_batching does.
        withhold_defaults: for tests of clients: "metadata" tells no defaults, as TFRT servables do not;
            "all" does not fill them in either.
        tls: certificate and key, and the authority whose clients alone are let in.
        intra_op_threads: threads inside one op; 0 lets TensorFlow choose.
        inter_op_threads: ops side by side; 0 lets TensorFlow choose.
        xla_cache: directory for compiled programs; see saliency_exporter.runtime.xla_cache.
        grpc_arguments: further gRPC options, such as {"grpc.max_connection_age_ms": 60000}.
        report: called with a line for every change of state.
    """

    def __init__(
        self,
        models: Mapping[str, Path | str] | Iterable[ModelConfig],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        rest_port: int | None = None,
        rest_seconds: float = 30.0,
        encoding: Encoding = "fields",
        warmup: bool = True,
        warmup_threads: int = 0,
        poll_seconds: float = 1.0,
        reread: Callable[[], Iterable[ModelConfig]] | None = None,
        running: int = 0,
        waiting: int = 64,
        batching: BatchingParameters | None = None,
        withhold_defaults: Withheld | None = None,
        tls: TlsFiles | None = None,
        intra_op_threads: int = 0,
        inter_op_threads: int = 0,
        xla_cache: Path | str | None = None,
        grpc_arguments: Mapping[str, int | str] | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._host = host
        self._port = port
        self._rest_port = rest_port
        self._poll_seconds = poll_seconds
        self._warmup = warmup
        self._warmup_threads = warmup_threads or (1 if batching else os.cpu_count() or 1)
        self._batching = batching
        self._withhold_defaults = withhold_defaults
        self._intra_op_threads = intra_op_threads
        self._inter_op_threads = inter_op_threads
        self._report = report
        self._credentials = server_credentials(tls) if tls is not None else None
        self._xla_cache_part = use_xla_cache(xla_cache) if xla_cache is not None else None
        self._models = ModelManager(_configs(models), self._load, report, reread)
        running = running or max(2, os.cpu_count() or 1)
        # With batching the batch threads bound what runs, and calls have to be inside to be merged.
        self._admission = Admission(running + waiting, 0) if batching else Admission(running, waiting)
        self._health = health.HealthServicer(experimental_non_blocking=True)
        calls = Calls(self._models, self._admission, withhold_defaults)
        self._grpc_server = self._make_grpc_server(calls, encoding, grpc_arguments or {})
        self._rest_server = self._make_rest_server(calls, rest_seconds) if rest_port is not None else None

    @property
    def port(self) -> int:
        """The port that the server listens on, once it has started."""
        return self._port

    @property
    def target(self) -> str:
        """What a client connects to."""
        return f"{self._url_host}:{self._port}"

    @property
    def rest_url(self) -> str | None:
        """Where the REST API is, once the server has started; None without one."""
        return None if self._rest_port is None else f"http://{self._url_host}:{self._rest_port}"

    @property
    def _url_host(self) -> str:
        return f"[{self._host}]" if ":" in self._host else self._host

    def start(self) -> None:
        """Loads and warms up every model, then opens its ports and starts polling for versions.

        Raises:
            ExportError: a model cannot be served or the port cannot be had.
        """
        _check_port_is_free(self._host, self._port, "--port")
        if self._rest_port is not None:
            _check_port_is_free(self._host, self._rest_port, "--rest-port")
        try:
            self._models.load_initial()
            self._open_port()
            if self._rest_server is not None:
                self._rest_port = self._rest_server.start(self._host, self._rest_port or 0)
        except BaseException:
            self._models.stop()
            raise
        self._grpc_server.start()
        for name in HEALTH_NAMES:
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if self._poll_seconds > 0:
            self._models.start_polling(self._poll_seconds)

    def stop(self, grace: float | None = 10.0) -> bool:
        """Refuses new requests, lets those under way finish for `grace` seconds, and unloads the models.

        Returns:
            True when every request finished; False when some were cut off.
        """
        self._health.enter_graceful_shutdown()
        stopped = self._grpc_server.stop(grace)
        if self._rest_server is not None:
            self._rest_server.stop(grace or 0)
        # Bounded: after the grace gRPC cuts calls off, but cannot end what TensorFlow still computes.
        stopped.wait((grace or 0) + 5)
        finished = self._admission.idle
        self._models.stop()
        self._threads.shutdown(wait=finished, cancel_futures=True)
        return finished

    def __enter__(self) -> LocalServer:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _make_rest_server(self, calls: Calls, seconds: float) -> RestServer:
        # Not imported at the top: most servers have no such port.
        from saliency_exporter.serving.rest_server import RestServer

        return RestServer(calls, places=self._admission.capacity + _SPARE_THREADS, seconds=seconds)

    def _make_grpc_server(
        self, calls: Calls, encoding: Encoding, grpc_arguments: Mapping[str, int | str]
    ) -> grpc.Server:
        self._threads = ThreadPoolExecutor(
            max_workers=self._admission.capacity + _SPARE_THREADS, thread_name_prefix="grpc"
        )
        options: dict[str, int | str] = {
            "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
            "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
            # Without it two servers share one port, each getting half of the requests.
            "grpc.so_reuseport": 0,
            **grpc_arguments,
        }
        server = grpc.server(self._threads, interceptors=[Messages()], options=tuple(options.items()))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(calls, encoding), server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(calls), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(REFLECTED_SERVICES, server)
        return server

    def _open_port(self) -> None:
        try:
            if self._credentials is None:
                port = self._grpc_server.add_insecure_port(self.target)
            else:
                port = self._grpc_server.add_secure_port(self.target, self._credentials)
        except RuntimeError as error:
            raise ExportError(
                f"cannot listen on {self.target}: {error}", hint="choose another --port, or 0 for a free one"
            ) from error
        self._port = port

    def _load(self, name: str, version: int, path: Path) -> Servable:
        servable = load_servable(
            path, intra_op_threads=self._intra_op_threads, inter_op_threads=self._inter_op_threads
        )
        if self._withhold_defaults == "all":
            servable.signature_defs = without_defaults(servable.signature_defs)
        if self._batching is not None:
            batching = BatchingSession(servable.session_run, self._batching)
            servable.resources.callback(batching.close)
            servable.session_run = batching
        if self._warmup:
            self._warm_up(name, version, servable)
        if self._xla_cache_part is not None:
            vouch_for_entries(self._xla_cache_part)
        return servable

    def _warm_up(self, name: str, version: int, servable: Servable) -> None:
        try:
            total = count_warmup(servable.version_dir)
            progress = _WarmupProgress(f"{name} version {version}", total, self._report)
            replay_warmup(servable, progress=progress, threads=self._warmup_threads)
        except BaseException:
            servable.close()
            raise


def serve(
    models: Mapping[str, Path | str] | Iterable[ModelConfig],
    *,
    host: str = "127.0.0.1",
    port: int = 8500,
    port_file: Path | str | None = None,
    grace: float = 10.0,
    out: Callable[[str], None] | None = None,
    **options: Any,
) -> bool:
    """Serves until SIGTERM or SIGINT, then finishes the requests under way and returns.

    Args:
        models: model name to model base path, or a ModelConfig each.
        host: address to bind; anything but loopback is warned about on stderr.
        port: 0 picks a free one and prints it.
        port_file: written, whole, with the port number once the server listens.
        grace: seconds that requests under way get to finish; a second signal cuts them off.
        out: gets the lines meant for a person; by default they go to stdout, flushed one by one.
        options: the other arguments of LocalServer.

    Returns:
        True when every request finished; False when the time was up, or the models were still loading.

    Raises:
        ExportError: a model cannot be served, or the port cannot be had.
    """
    out = out or _print_line
    # It would log a traceback for every reflection request that is no protocol buffer.
    logging.getLogger("grpc._common").setLevel(logging.CRITICAL)
    if not _is_loopback(host):
        print(
            f"warning: listening on {host}, which others can reach; this server is for development and tests",
            file=sys.stderr,
            flush=True,
        )
    server = LocalServer(models, host=host, port=port, report=out, **options)
    events: queue.SimpleQueue[BaseException | int | None] = queue.SimpleQueue()
    with _signals_to(events):
        threading.Thread(target=_start, args=(server, events), name="start", daemon=True).start()
        event = _next_event(events)
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, int):
            out("stopped while loading")
            return False
        if port_file is not None:
            try:
                _write_port(Path(port_file), server.port)
            except ExportError:
                server.stop(0)
                raise
        if server.rest_url is not None:
            out(f"REST on {server.rest_url}/v1/models")
        out(f"listening on {server.target} (for development and tests; in production run TensorFlow Serving)")
        _next_event(events)
        out("stopping: finishing the requests under way")
        stopper = threading.Thread(
            target=lambda: events.put(None if server.stop(grace) else signal.SIGTERM), daemon=True
        )
        stopper.start()
        finished = _next_event(events) is None
        out("stopped" if finished else "stopped: some requests were cut off")
        return finished


@contextmanager
def local_target(version_dir: Path | str) -> Iterator[tuple[str, str]]:
    """Serves one version directory in this process on a free loopback port, without its warmup.

    Yields:
        The gRPC target and the model name.

    Raises:
        ExportError: the directory is not a loadable SavedModel.
    """
    model = ModelConfig.of_version(Path(version_dir).resolve())
    with LocalServer([model], warmup=False, poll_seconds=0) as server:
        yield server.target, model.name


def _start(server: LocalServer, events: queue.SimpleQueue[BaseException | int | None]) -> None:
    try:
        server.start()
    except BaseException as error:
        events.put(error)
    else:
        events.put(None)


def _next_event(events: queue.SimpleQueue[BaseException | int | None]) -> BaseException | int | None:
    """Waits in slices: a signal that arrives just before a wait begins is not seen until it ends."""
    while True:
        try:
            return events.get(timeout=0.5)
        except queue.Empty:
            continue


@contextmanager
def _signals_to(events: queue.SimpleQueue[BaseException | int | None]) -> Iterator[None]:
    """Puts SIGTERM and SIGINT into the queue for as long as the block runs."""
    previous = {
        number: signal.signal(number, lambda received, frame: events.put(received))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _WarmupProgress:
    """Says which warmup record runs, at most every two seconds."""

    def __init__(self, version: str, total: int, report: Callable[[str], None]) -> None:
        self._version = version
        self._total = total
        self._report = report
        self._count = 0
        self._said = time.monotonic()

    def __call__(self, request: predict_pb2.PredictRequest) -> None:
        self._count += 1
        if time.monotonic() - self._said < 2:
            return
        self._said = time.monotonic()
        self._report(
            f"{self._version}: warming up, request {self._count} of {self._total} "
            f"({request.model_spec.signature_name})"
        )


def _configs(models: Mapping[str, Path | str] | Iterable[ModelConfig]) -> list[ModelConfig]:
    if isinstance(models, Mapping):
        return [ModelConfig(name, Path(base_path)) for name, base_path in models.items()]
    return list(models)


def _check_port_is_free(host: str, port: int, option: str) -> None:
    """Fails before the models load and not after; gRPC binds later, when the port may open."""
    if port == 0:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ExportError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                hint=f"choose another {option}, or 0 for a free one",
            ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _write_port(path: Path, port: int) -> None:
    try:
        write_whole(path, lambda file: file.write(f"{port}\n".encode()), overwrite=True)
    except OSError as error:
        raise ExportError(f"--port-file {path} cannot be written: {error.strerror or error}") from error


def _print_line(line: str) -> None:
    print(line, flush=True)
