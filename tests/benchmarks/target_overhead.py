"""What `target_error` costs where it is never reached: SmoothGrad in process, calls in turn.

    .venv/bin/python tests/benchmarks/target_overhead.py --compile none

One function stands for a loop that cannot stop, as it was before there was a target; the other has one, and
is called with 0 and with a target that no example reaches. Ratios are medians over calls of the same turn.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from measuring import interleaved, kernels_text, machine

from saliency_exporter.contract.build import build_cores
from saliency_exporter.contract.settings import Settings
from saliency_exporter.graph.folding import fold
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods import smooth
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.methods.sampling import over_samples
from saliency_exporter.runtime.kernels import running_kernels
from saliency_exporter.sources.load import load_source

NEVER = 1e-6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--compile", choices=("none", "xla"), default="none")
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    print(f"{machine()}, {kernels_text(running_kernels())}; {arguments.model}, compile {arguments.compile}")
    print("| batch | no target, ms | target 0, ratio | target never reached, ratio |\n|---|---|---|---|")
    source = load_source(arguments.model)
    forward = Forward(fold(trace(source)))
    for batch in map(int, arguments.batch_sizes.split(",")):
        settings = Settings(
            methods=find_methods(["smooth"]), batch_sizes=(batch,), compile=arguments.compile, target="cpu"
        )

        def core(settings: Settings = settings) -> Any:
            built = build_cores(forward, source.preprocessing, settings, "model")["explain_smooth"]
            built.get_concrete_function()
            return built

        with mock.patch.object(smooth, "until_accurate", without_target):
            before = core()
        after = core()
        images = np.random.default_rng(0).integers(0, 256, (batch, *forward.graph.input_shape), np.uint8)

        def call(function: Any, target: float, batch: int = batch, images: Any = images) -> None:
            values = {"num_samples": arguments.samples, "noise_level": 0.15, "target_error": target}
            inputs = [
                tf.fill([batch], tf.constant(values.get(spec.name, 0), spec.dtype))
                for spec in function.input_signature[1:]
            ]
            function(tf.constant(images), *inputs)["saliency"].numpy()

        calls = {
            "before": functools.partial(call, before, 0.0),
            "zero": functools.partial(call, after, 0.0),
            "never": functools.partial(call, after, NEVER),
        }
        interleaved(calls, 1)
        times = interleaved(calls, arguments.rounds)
        ratios = [
            statistics.median(new / old for new, old in zip(times[name], times["before"], strict=True))
            for name in ("zero", "never")
        ]
        milliseconds = statistics.median(times["before"])
        print(f"| {batch} | {milliseconds:.0f} | {ratios[0]:.3f} | {ratios[1]:.3f} |", flush=True)


def without_target(
    count: tf.Tensor, target: tf.Tensor, at_once: tf.Tensor, step: Any, state: Any, error: Any
) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
    """The loop over all samples, whatever the target is."""
    return count, over_samples(count, at_once, step, state)


if __name__ == "__main__":
    main()
