"""What the client costs: codec, import, overhead of a call, how busy explain_many keeps a server, disk.

    python tests/benchmarks/client_codec.py [--json FILE] [--record]

`--record` writes the figures as a dated page under tests/benchmarks/results/.

The server is a process of its own that answers with ready-made bytes, so that what is measured is the client.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from importlib.metadata import version
from pathlib import Path

import grpc
import numpy as np

from saliency_client import SaliencyClient
from saliency_client import _requests as requests
from saliency_client._proto import saliency_client_tfs_pb2 as tfs
from saliency_client._requests import ModelName
from saliency_client._signatures import Signature, TensorSpec
from saliency_client._tensors import serialized

SIDE = 224
COMPUTE_SECONDS = 0.020
IMAGES = 200
LIMITS = {
    "decode [8,224,224,3], typed fields (ms)": 2.0,
    "decode [8,224,224,3], tensor_content (ms)": 2.0,
    "encode 8 uint8 images (ms)": 1.0,
    "overhead of one explain, 224x224 (ms)": 3.0,
    "from saliency_client import SaliencyClient (s)": 0.30,
    "saliency-client --help (s)": 0.20,
    "resident after import (MB)": 60.0,
    "server idle, explain_many of 200, 4 in flight (%)": 5.0,
    "base install on disk, without TensorFlow (MB)": 150.0,
}
ROOT = Path(__file__).parents[2]
SIGNATURE = Signature(
    "explain_gradients",
    {
        "images": TensorSpec("images", "uint8", (None, SIDE, SIDE, 3)),
        "class_index": TensorSpec("class_index", "int32", None),
    },
    {
        "gradients": TensorSpec("gradients", "float32", (None, SIDE, SIDE, 3)),
        "saliency": TensorSpec("saliency", "float32", (None, SIDE, SIDE)),
    },
    {"class_index": np.array(-1, np.int32)},
)


def median_ms(call: Callable[[], object], repeats: int = 100) -> float:
    for _ in range(5):
        call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def answer(array: np.ndarray, output: str, *, typed: bool) -> bytes:
    response = tfs.PredictResponse()
    proto = tfs.TensorProto.FromString(b"".join(serialized(array)))
    if typed:
        proto.float_val.append(proto.tensor_content)
        proto.ClearField("tensor_content")
    response.outputs[output].CopyFrom(proto)
    return response.SerializeToString()


def codec() -> dict[str, float]:
    gradients = np.random.default_rng(0).normal(size=(8, SIDE, SIDE, 3)).astype(np.float32)
    images = np.zeros((8, SIDE, SIDE, 3), np.uint8)
    request = requests.Request(b"", SIGNATURE, ("gradients",), 8)
    figures = {}
    for name, typed in (("typed fields", True), ("tensor_content", False)):
        payload = answer(gradients, "gradients", typed=typed)
        figures[f"decode [8,224,224,3], {name} (ms)"] = median_ms(
            lambda payload=payload: requests.parse_answer(payload, request)
        )
    figures["encode 8 uint8 images (ms)"] = median_ms(
        lambda: requests.explain_request(ModelName("m"), SIGNATURE, images, {}, "saliency")
    )
    return figures


def import_cost() -> dict[str, float]:
    code = (
        "import time; started = time.perf_counter(); from saliency_client import SaliencyClient; "
        "seconds = time.perf_counter() - started; status = open('/proc/self/status').read(); "
        "print(seconds, int(status.split('VmHWM:')[1].split()[0]) / 1024)"
    )
    runs = [
        [float(word) for word in subprocess.check_output([sys.executable, "-c", code], text=True).split()]
        for _ in range(15)
    ]
    seconds, resident = (statistics.median(column) for column in zip(*runs, strict=True))
    command = [Path(sys.executable).parent / "saliency-client", "--help"]
    help_ms = median_ms(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), 15)
    return {
        "from saliency_client import SaliencyClient (s)": seconds,
        "resident after import (MB)": resident,
        "saliency-client --help (s)": help_ms / 1000,
    }


def base_install() -> dict[str, float]:
    """Disk that `pip install saliency-serving` takes in a fresh environment, compiled bytecode included."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        python = Path(folder) / "bin" / "python"
        files = Path(folder) / "lib"
        subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "-qq", ROOT], check=True)
        assert not list(files.rglob("tensorflow")), "the base install brings TensorFlow"
        subprocess.run([python, "-c", "from saliency_client import SaliencyClient"], check=True)
        blocks = sum(path.lstat().st_blocks for path in files.rglob("*"))
    return {"base install on disk, without TensorFlow (MB)": blocks * 512 / 1e6}


class Server(grpc.GenericRpcHandler):
    """Answers Predict after so many seconds of work on its one accelerator; notes when it worked."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.accelerator = threading.Lock()
        self.worked: list[tuple[float, float]] = []
        self.answers = {
            size: answer(np.zeros((size, SIDE, SIDE), np.float32), "saliency", typed=True)
            for size in range(1, 9)
        }

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            {"Predict": self.predict, "GetModelMetadata": self.metadata}[call.method.rsplit("/", 1)[1]]
        )

    def predict(self, payload: bytes, context: grpc.ServicerContext) -> bytes:
        if self.seconds == 0:
            return self.answers[1]
        size = tfs.PredictRequest.FromString(payload).inputs["images"].tensor_shape.dim[0].size
        with self.accelerator:
            started = time.perf_counter()
            time.sleep(self.seconds)
            self.worked.append((started, time.perf_counter()))
        return self.answers[size]

    def metadata(self, payload: bytes, context: grpc.ServicerContext) -> bytes:
        response = tfs.GetModelMetadataResponse()
        signatures = tfs.SignatureDefMap()
        definition = signatures.signature_def[SIGNATURE.name]
        for specs, infos in ((SIGNATURE.inputs, definition.inputs), (SIGNATURE.outputs, definition.outputs)):
            for name, spec in specs.items():
                infos[name].dtype = {"uint8": tfs.DT_UINT8, "int32": tfs.DT_INT32}.get(
                    spec.dtype, tfs.DT_FLOAT
                )
                if spec.shape is None:
                    infos[name].tensor_shape.unknown_rank = True
                else:
                    for size in spec.shape:
                        infos[name].tensor_shape.dim.add(size=-1 if size is None else size)
        default = b"".join(serialized(np.array(-1, np.int32)))
        definition.defaults["class_index"].MergeFromString(default)
        response.metadata["signature_def"].value = signatures.SerializeToString()
        return response.SerializeToString()

    def idle_percent(self) -> float:
        span = self.worked[-1][1] - self.worked[0][0]
        return 100 * (1 - sum(end - start for start, end in self.worked) / span)


def serve(seconds: float) -> None:
    """Serve until standard input closes; then say how idle the accelerator was."""
    handler = Server(seconds)
    server = grpc.server(futures.ThreadPoolExecutor(8), [handler])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(None).wait()
    print(handler.idle_percent() if handler.worked else 0.0)


def against_server(seconds: float, use: Callable[[SaliencyClient], float]) -> tuple[float, float]:
    """What `use` returns, and the server's idle percentage."""
    command = [sys.executable, __file__, "--serve", str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        target = f"127.0.0.1:{process.stdout.readline().strip()}"
        with SaliencyClient(target, model="m") as client:
            figure = use(client)
        idle = process.communicate(timeout=30)[0]
    return figure, float(idle)


def calls() -> dict[str, float]:
    images = np.zeros((IMAGES, SIDE, SIDE, 3), np.uint8)

    def one(client: SaliencyClient) -> float:
        return median_ms(lambda: client.explain(images[:1], outputs="saliency"), 300)

    def many(client: SaliencyClient) -> float:
        client.methods()
        return sum(
            result.error is None for result in client.explain_many(images, batch_size=1, max_in_flight=4)
        )

    overhead, _ = against_server(0, one)
    done, idle = against_server(COMPUTE_SECONDS, many)
    assert done == IMAGES
    return {
        "overhead of one explain, 224x224 (ms)": overhead,
        "server idle, explain_many of 200, 4 in flight (%)": idle,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        return serve(options.serve)
    figures = {**codec(), **import_cost(), **calls(), **base_install()}
    packages = {name: version(name) for name in ("grpcio", "protobuf", "numpy")}
    where = {"python": platform.python_version(), "cpus": os.cpu_count(), **packages}
    for name, limit in LIMITS.items():
        print(
            f"{name:52} {figures[name]:8.2f}   limit {limit:g}{'' if figures[name] <= limit else '   MISSED'}"
        )
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    if options.json:
        options.json.write_text(json.dumps({"where": where, "figures": figures}, indent=2) + "\n")
    if options.record:
        path = ROOT / "tests" / "benchmarks" / "results" / f"{datetime.date.today()}-client.md"
        path.write_text(as_page(figures, where), encoding="utf-8")


def as_page(figures: Mapping[str, float], where: Mapping[str, object]) -> str:
    width = max(map(len, LIMITS))
    lines = [
        f"# What the client costs, {datetime.date.today()}",
        "",
        ", ".join(f"{name} {value}" for name, value in where.items()) + ". Made by `make bench`; medians.",
        "",
        f"| {'measure':<{width}} | measured | limit |",
        f"|{'-' * (width + 2)}|---|---|",
        *(f"| {name:<{width}} | {figures[name]:.3g} | ≤ {limit:g} |" for name, limit in LIMITS.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
