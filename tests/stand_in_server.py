"""A fast stand-in of TensorFlow Serving, as a process of its own: many replicas, little work for an answer.

    python tests/stand_in_server.py --replicas 4 --milliseconds 40 --at-a-time 1 --side 32

It writes one line of JSON with its targets. For every line on its stdin it writes what it has counted, and
begins to count anew; it ends with its stdin, and so with the process that started it.

A picture of the tests here has one colour, which is its number (`numbered_png`). The stand-in answers with
that number as `score`, so a row that got the answer of another image is seen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MODEL = "stand-in"
CLASSES = 4


def number_of(pixel: Any) -> int:
    """The number that a colour is: 24 bits, which float32 holds exactly."""
    red, green, blue = (int(value) for value in pixel)
    return red + 256 * green + 65536 * blue


def numbered_png(number: int, side: int = 32) -> bytes:
    """A square picture of one colour, its number; 24 bits."""
    row = b"\0" + bytes((number & 255, number >> 8 & 255, number >> 16)) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * side, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


class StandIn:
    """The running process, as its parent sees it.

    Args:
        options: of the command line, without the dashes in front.
    """

    def __init__(self, **options: Any) -> None:
        words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert self.process.stdout is not None
            self.targets: list[str] = json.loads(self.process.stdout.readline())
        except BaseException:
            self.stop()
            raise

    def counted(self) -> dict[str, Any]:
        """What it has counted since the last call.

        batches, rows, and `all_rows` since it began; `busy`, the part of all places of all replicas that
        were taken, from the first request on to the last answer; `nominal`, the same by the time that a batch
        should take.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        counted: dict[str, Any] = json.loads(self.process.stdout.readline())
        return counted

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait(10)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@contextmanager
def standing_in(**options: Any) -> Iterator[StandIn]:
    """A running stand-in; it ends with the block."""
    server = StandIn(**options)
    try:
        yield server
    finally:
        server.stop()


@dataclass
class Counts:
    """Of all replicas."""

    batches: int = 0
    rows: int = 0
    all_rows: int = 0
    busy: float = 0.0
    first: float | None = None
    last: float = 0.0


class Answers:
    """The answers to requests, from bytes that were made beforehand as far as that is possible."""

    def __init__(self, side: int, map_side: int) -> None:
        from saliency_client._proto import saliency_client_tfs_pb2 as tfs

        self._tfs = tfs
        self.side, self.map_side = side, map_side
        self._maps: dict[int, bytes] = {}
        rng = np.random.default_rng(0)
        # As a real map: in no way compressible, and never below 0.
        self._map = np.abs(rng.normal(size=(map_side, map_side))).astype("<f4").tobytes()
        self.metadata = self._metadata()
        status = tfs.GetModelStatusResponse()
        status.model_version_status.add(version=1, state=tfs.ModelVersionStatus.AVAILABLE)
        self.status = status.SerializeToString()

    def explain(self, payload: bytes) -> tuple[bytes, int]:
        """The answer to explain_gradients, and how many rows it has."""
        tfs = self._tfs
        request = tfs.PredictRequest.FromString(payload)
        images = request.inputs["images"]
        rows = images.tensor_shape.dim[0].size
        pixels = np.frombuffer(images.tensor_content, np.uint8).reshape(rows, -1)[:, :3].astype(np.int64)
        numbers = pixels @ [1, 256, 65536]
        answer = tfs.PredictResponse()
        answer.model_spec.name, answer.model_spec.version.value = MODEL, 1
        answer.model_spec.signature_name = "explain_gradients"
        wanted = set(request.output_filter) or {"saliency", *_NUMBERS}
        values = {
            "class_index": numbers % CLASSES,
            "score": numbers.astype("<f4"),
            "probability": np.full(rows, 0.5, "<f4"),
            "label": [f"class {number % CLASSES}".encode() for number in numbers],
        }
        for name in wanted & set(values):
            tensor = answer.outputs[name]
            tensor.dtype = _NUMBERS[name]
            tensor.tensor_shape.dim.add(size=rows)
            if name == "class_index":
                tensor.int_val.extend(values[name].tolist())
            elif name == "label":
                tensor.string_val.extend(values[name])
            else:
                tensor.float_val.append(values[name].tobytes())
        # What follows in a message is merged with what stands before.
        maps = self._saliency(rows) if "saliency" in wanted else b""
        return answer.SerializeToString() + maps, rows

    def _saliency(self, rows: int) -> bytes:
        if rows not in self._maps:
            answer = self._tfs.PredictResponse()
            tensor = answer.outputs["saliency"]
            tensor.dtype = self._tfs.DT_FLOAT
            for size in (rows, self.map_side, self.map_side):
                tensor.tensor_shape.dim.add(size=size)
            tensor.float_val.append(self._map * rows)
            self._maps[rows] = answer.SerializeToString()
        return self._maps[rows]

    def _metadata(self) -> bytes:
        tfs = self._tfs
        signature = tfs.SignatureDef(method_name="tensorflow/serving/predict")
        shapes = {
            "images": (-1, self.side, self.side, 3),
            "saliency": (-1, self.map_side, self.map_side),
        }
        kinds = {"images": tfs.DT_UINT8, "saliency": tfs.DT_FLOAT, **_NUMBERS}
        for name in ("saliency", *_NUMBERS):
            self._describe(signature.outputs[name], name, kinds[name], shapes.get(name, (-1,)))
        self._describe(signature.inputs["images"], "images", kinds["images"], shapes["images"])
        self._describe(signature.inputs["class_index"], "class_index", tfs.DT_INT32, None)
        signature.defaults["class_index"].dtype = tfs.DT_INT32
        signature.defaults["class_index"].tensor_shape.SetInParent()
        signature.defaults["class_index"].int_val.append(-1)
        answer = tfs.GetModelMetadataResponse()
        answer.model_spec.name, answer.model_spec.version.value = MODEL, 1
        shown = tfs.SignatureDefMap(signature_def={"explain_gradients": signature})
        answer.metadata["signature_def"].type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
        answer.metadata["signature_def"].value = shown.SerializeToString()
        return bytes(answer.SerializeToString())

    def _describe(self, info: Any, name: str, kind: int, shape: tuple[int, ...] | None) -> None:
        info.name, info.dtype = f"{name}:0", kind
        if shape is None:
            info.tensor_shape.unknown_rank = True
        for size in shape or ():
            info.tensor_shape.dim.add(size=size)


_NUMBERS = {"class_index": 3, "score": 1, "probability": 1, "label": 7}
"""Outputs of one value for an image, and their types as TensorFlow numbers them."""


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until stdin ends."""
    import grpc
    import grpc.aio

    answers = Answers(arguments.side, arguments.map_side or arguments.side)
    counts = Counts()
    seconds = arguments.milliseconds / 1000

    def raw(behaviour: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(behaviour)

    def replica() -> list[Any]:
        places = asyncio.Semaphore(arguments.at_a_time)

        async def predict(payload: bytes, context: Any) -> bytes:
            async with places:
                begun = time.monotonic()
                counts.first = counts.first or begun
                answer, rows = answers.explain(payload)
                if seconds:
                    await asyncio.sleep(seconds - (time.monotonic() - begun))
                counts.last = time.monotonic()
                counts.busy += counts.last - begun
            counts.batches += 1
            counts.rows += rows
            counts.all_rows += rows
            return answer

        async def metadata(payload: bytes, context: Any) -> bytes:
            return answers.metadata

        async def status(payload: bytes, context: Any) -> bytes:
            return answers.status

        of_predictions = {"Predict": raw(predict), "GetModelMetadata": raw(metadata)}
        return [
            grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", of_predictions),
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.ModelService", {"GetModelStatus": raw(status)}
            ),
        ]

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    servers = []
    targets = []
    for _ in range(arguments.replicas):
        server = grpc.aio.server(options=[*options, ("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers(replica())
        targets.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        servers.append(server)
    print(json.dumps(targets), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        span = counts.last - (counts.first or 0.0)
        places = arguments.replicas * arguments.at_a_time * span
        print(
            json.dumps(
                {
                    "batches": counts.batches,
                    "rows": counts.rows,
                    "all_rows": counts.all_rows,
                    "seconds": span,
                    "busy": counts.busy / places if places else 0.0,
                    "nominal": counts.batches * seconds / places if places else 0.0,
                }
            ),
            flush=True,
        )
        counts.batches = counts.rows = 0
        counts.busy, counts.first = 0.0, None
    for server in servers:
        await server.stop(None)


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--milliseconds", type=float, default=0.0, help="that a batch takes")
    parser.add_argument("--at-a-time", type=int, default=16, help="batches in a replica")
    parser.add_argument("--side", type=int, default=32, help="of the model's pictures, pixels")
    parser.add_argument("--map-side", type=int, default=0, help="of a map; 0: as the pictures")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
