"""What the client costs: codec, import, overhead of a call, and how busy explain_many keeps a server.

    python tests/benchmarks/client_codec.py [--json FILE]

The server is a process of its own that answers with ready-made bytes, so that what is measured is the client.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
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
from saliency_client._tensors import encode

SIDE = 224
COMPUTE_SECONDS = 0.020
IMAGES = 200
LIMITS = {
    "decode [8,224,224,3], typed fields (ms)": 2.0,
    "decode [8,224,224,3], tensor_content (ms)": 2.0,
    "encode 8 uint8 images (ms)": 1.0,
    "overhead of one explain, 224x224 (ms)": 3.0,
    "import, first name used (s)": 0.30,
    "resident after import (MB)": 60.0,
    "server idle, explain_many of 200, 4 in flight (%)": 5.0,
}
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
    proto = encode(array)
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
        for _ in range(7)
    ]
    seconds, resident = (statistics.median(column) for column in zip(*runs, strict=True))
    return {"import, first name used (s)": seconds, "resident after import (MB)": resident}


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
        definition.defaults["class_index"].CopyFrom(encode(np.array(-1, np.int32)))
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
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        return serve(options.serve)
    figures = {**codec(), **import_cost(), **calls()}
    packages = {name: version(name) for name in ("grpcio", "protobuf", "numpy")}
    where = {"python": platform.python_version(), "cpus": os.cpu_count(), **packages}
    for name, limit in LIMITS.items():
        print(
            f"{name:52} {figures[name]:8.2f}   limit {limit:g}{'' if figures[name] <= limit else '   MISSED'}"
        )
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    if options.json:
        options.json.write_text(json.dumps({"where": where, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
