"""What a map costs as JSON: bytes and milliseconds of one image over REST and over gRPC.

    python tests/benchmarks/rest.py models/lite0 [--repetitions 20]

The server is the local one. It writes the bytes that TensorFlow Serving writes, in Python where that has C++,
so its milliseconds of REST are an upper bound; the bytes, and what a client takes to read them, are the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

import grpc
import numpy as np
from measuring import ending_with_this_process, machine, versions

from saliency_client import SaliencyClient
from saliency_client._proto import saliency_client_tfs_pb2 as tfs

METHOD = "/tensorflow.serving.PredictionService/Predict"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--repetitions", type=int, default=20)
    given = parser.parse_args()
    command = [sys.executable, "-m", "saliency_exporter", "serve", f"m={given.model_dir}", "--port", "0"]
    server = subprocess.Popen(
        [*command, "--rest-port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=ending_with_this_process(),
    )
    try:
        rest = target = ""
        for line in server.stdout:
            rest = line.split()[2] if line.startswith("REST on ") else rest
            if line.startswith("listening on "):
                target = line.split()[2]
                break
        print(f"{machine()}; {versions()}\n")
        for name, request, answer, ask, read in rows(target, rest):
            asked, parsed = timed(ask, given.repetitions), timed(read, given.repetitions)
            print(f"| {name} | {request:,} | {answer:,} | {asked:.1f} | {parsed:.1f} |")
    finally:
        server.terminate()
        server.wait(30)


def rows(target: str, rest: str):
    """Of each way: its name, bytes sent, bytes received, how to ask, and how to read what came."""
    with SaliencyClient(target, model="m") as client:
        size = client.signatures()["explain_gradients"].image_size
    pixels = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    for name, filters in (("gRPC, `saliency` alone", ["saliency"]), ("gRPC, all outputs", [])):
        request = tfs.PredictRequest(output_filter=filters)
        request.model_spec.name, request.model_spec.signature_name = "m", "explain_gradients"
        images = request.inputs["images"]
        images.dtype, images.tensor_content = 4, pixels.tobytes()
        for side in pixels.shape:
            images.tensor_shape.dim.add(size=side)
        sent = request.SerializeToString()
        channel = grpc.insecure_channel(target, [("grpc.max_receive_message_length", -1)])
        call = channel.unary_unary(METHOD)
        received = call(sent)
        yield name, len(sent), len(received), partial(call, sent), partial(read_grpc, received)
    rows_ = {"instances": [{"images": pixels[0].tolist(), "class_index": -1}]}
    columns = {"inputs": {"images": pixels.tolist(), "class_index": [-1]}}
    for name, body in (("REST, rows, all outputs", rows_), ("REST, columns, all outputs", columns)):
        content = json.dumps({"signature_name": "explain_gradients", **body}, separators=(",", ":")).encode()
        got = post(rest, content)
        yield name, len(content), len(got), partial(post, rest, content), partial(read_json, got)


def post(rest: str, content: bytes) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(f"{rest}/m:predict", content), timeout=60) as answer:
        return answer.read()


def read_grpc(content: bytes) -> np.ndarray:
    chunks = tfs.PredictResponse.FromString(content).outputs["saliency"].float_val
    return np.frombuffer(b"".join(chunks), np.float32)


def read_json(content: bytes) -> np.ndarray:
    answer = json.loads(content)
    first = answer["predictions"][0] if "predictions" in answer else answer["outputs"]
    return np.array(first["saliency"], np.float32)


def timed(function, repetitions: int) -> float:
    """The median in milliseconds."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


if __name__ == "__main__":
    main()
