"""What each lowering rule is worth, uncompiled: the convolutions of whole models, layer by layer.

    .venv/bin/python tests/benchmarks/lowering_layers.py --models ResNet50 --batch-sizes 1,8
    TF_ENABLE_ONEDNN_OPTS=0 .venv/bin/python tests/benchmarks/lowering_layers.py

A layer is its convolution with a bias and a ReLU, so that what TensorFlow makes part of the convolution is
part of it here too. Timed are its value and its input gradient, in one call, by the least of the rounds. Rows
give milliseconds of the op as it is, and the ratio of each rule that takes the layer, its thresholds put
aside: `rules/lowering/thresholds.py` is made from these.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from measuring import kernels_text, machine, versions
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.folding import fold
from saliency_exporter.graph.forward_graph import Rule
from saliency_exporter.graph.nodes import attribute
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.rules.lowering.pointwise import pointwise_uncompiled
from saliency_exporter.rules.lowering.strided import strided_uncompiled
from saliency_exporter.rules.lowering.thresholds import Minimal, Products
from saliency_exporter.rules.lowering.winograd import winograd
from saliency_exporter.runtime.kernels import running_kernels
from saliency_exporter.sources.load import load_source

MODELS = "efficientnet-lite0,MobileNetV2,EfficientNetB0,Xception,ResNet50,VGG16"
ALWAYS = 0.0
NEVER = float("inf")
RULES: dict[str, Rule] = {
    "way back a product": functools.partial(pointwise_uncompiled, worth=Products(NEVER, NEVER, NEVER)),
    "value a product too": functools.partial(pointwise_uncompiled, worth=Products(NEVER, ALWAYS, ALWAYS)),
    "way back of read pixels": functools.partial(pointwise_uncompiled, worth=Products(-1, NEVER, NEVER)),
    "phases": strided_uncompiled,
    "minimal filtering": functools.partial(winograd, worth=Minimal(ALWAYS, ALWAYS)),
}
Layer = tuple[tuple[int, ...], tuple[int, ...], NodeDef]
"""Shape of one example, shape of the kernel, the op."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    print(f"{machine()}, {kernels_text(running_kernels())}; {versions(['tensorflow'])}\n")
    print("| layer | B | as it is, ms | " + " | ".join(RULES) + " |")
    print("| --- | --- | --- |" + " --- |" * len(RULES))
    seen = set()
    for name in arguments.models.split(","):
        for example, kernel, node in layers(name):
            label = f"{'×'.join(map(str, example))} by {'×'.join(map(str, kernel))}" + strides_of(node)
            if label not in seen:
                seen.add(label)
                for batch in map(int, arguments.batch_sizes.split(",")):
                    row(label, example, kernel, node, batch, arguments.rounds)


def strides_of(node: NodeDef) -> str:
    down = attribute(node, "strides").list.i[1]
    return f" / {down}" if down > 1 else ""


def layers(name: str) -> Iterator[Layer]:
    """The Conv2D of a folded model with plain kernels."""
    source = load_source(name, **({"weights": "none"} if name[0].isupper() else {}))
    graph = fold(trace(source))
    found: list[Layer] = []

    def watch(node: NodeDef, inputs: list[tf.Tensor]) -> None:
        x, kernel = inputs
        if kernel.shape[2] == x.shape[3]:
            found.append((tuple(x.shape[1:]), tuple(kernel.shape), node))

    forward = Forward(graph)
    replay = tf.function(lambda x: forward.scores(x, rules={"Conv2D": watch}), autograph=False)
    replay.get_concrete_function(tf.TensorSpec((None, *graph.input_shape), tf.float32))
    yield from found


def row(
    label: str, example: tuple[int, ...], kernel: tuple[int, ...], node: NodeDef, batch: int, rounds: int
) -> None:
    generator = np.random.default_rng(0)
    weight = tf.Variable(generator.normal(size=kernel) / np.sqrt(np.prod(kernel[:3])), dtype=tf.float32)
    bias = tf.Variable(tf.zeros(kernel[3]))
    x = tf.constant(generator.normal(size=(batch, *example)), tf.float32)
    runs = {"": value_and_gradient(as_it_is(node), weight, bias, example)}
    for name, rule in RULES.items():
        if (run := value_and_gradient(functools.partial(rule, node), weight, bias, example)) is not None:
            runs[name] = run
    for run in runs.values():
        run(x)
        run(x)
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run(x)
            start = time.perf_counter()
            run(x)[1].numpy()
            times[name].append(1e3 * (time.perf_counter() - start))
    plain = min(times[""])
    cells = [f"{min(times[name]) / plain:.2f}" if name in times else "" for name in RULES]
    print(f"| {label} | {batch} | {plain:.2f} | {' | '.join(cells)} |", flush=True)


def as_it_is(node: NodeDef) -> Callable[[list[tf.Tensor]], list[tf.Tensor]]:
    options = {
        "strides": list(attribute(node, "strides").list.i),
        "padding": attribute(node, "padding").s,
        "explicit_paddings": list(attribute(node, "explicit_paddings").list.i),
        "dilations": list(attribute(node, "dilations").list.i) or [1, 1, 1, 1],
    }
    return lambda inputs: [tf.raw_ops.Conv2D(input=inputs[0], filter=inputs[1], **options)]


def value_and_gradient(
    convolve: Callable, weight: tf.Variable, bias: tf.Variable, example: tuple[int, ...]
) -> Callable | None:
    """ReLU(convolution + bias) and its input gradient with a signal of ones; None where the rule declines."""

    def run(x: tf.Tensor) -> list[tf.Tensor]:
        outputs = convolve([x, weight.read_value()])
        if outputs is None:
            raise DeclinedError
        y = tf.nn.relu(tf.nn.bias_add(outputs[0], bias))
        return [tf.reduce_sum(y), *tf.gradients(y, x)]

    function = tf.function(run, autograph=False, input_signature=[tf.TensorSpec((None, *example))])
    try:
        function.get_concrete_function()
    except DeclinedError:
        return None
    return function


class DeclinedError(Exception):
    """A rule does not take a layer."""


if __name__ == "__main__":
    main()
