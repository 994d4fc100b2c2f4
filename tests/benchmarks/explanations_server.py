"""The project's side of the benchmark: a client on a server, and what it costs there."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from measuring import interleaved

from saliency_client import SaliencyClient

METHODS = ("gradients", "guided", "smooth")
BATCHES = (1, 8)
SAMPLES = 50


class ByteCounter(grpc.UnaryUnaryClientInterceptor):
    """Counts the bytes of the last request and its answer; the client's messages are bytes already."""

    sent = 0
    received = 0

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], details: grpc.ClientCallDetails, request: bytes
    ) -> Any:
        call = continuation(details, request)
        self.sent, self.received = len(request), len(call.result())
        return call


def open_client(target: str, model: str) -> tuple[SaliencyClient, ByteCounter]:
    """A ready client without a deadline that a slow machine would meet, and its counter."""
    counter = ByteCounter()
    client = SaliencyClient(target, model=model, timeout=3600.0, interceptors=[counter])
    client.wait_ready(60)
    return client, counter


def random_images(shape: tuple[int, ...], batch: int) -> np.ndarray:
    """uint8 noise: no step of the way can be quicker for it than for a photo."""
    return np.random.default_rng(1).integers(0, 256, (batch, *shape), np.uint8)


def live_cells(target: str, model: str, rounds: int) -> dict[str, Any]:
    """Times of every signature of a live server at each batch size, interleaved."""
    client, counter = open_client(target, model)
    with client:
        spec = client.signatures()["serving_default"].inputs["images"]
        shape = tuple(int(size) for size in spec.shape[1:])
        methods = [method for method in METHODS if method in client.methods()]
        cells: dict[str, Any] = {}
        for batch in BATCHES:
            images = random_images(shape, batch).astype(spec.dtype)
            calls: dict[str, Callable[[], object]] = {"serving_default": lambda x=images: client.predict(x)}
            for method in methods:
                options = {"num_samples": SAMPLES} if method == "smooth" else {}
                calls[method] = lambda x=images, m=method, o=options: client.explain(x, method=m, **o)
            interleaved(calls, 1)
            for name, times in interleaved(calls, rounds).items():
                calls[name]()
                cells[f"{name} {batch}"] = {
                    "ms": times,
                    "sent": counter.sent,
                    "received": counter.received,
                    "median": statistics.median(times),
                }
    return {"target": target, "model": model, "shape": shape, "cells": cells}
