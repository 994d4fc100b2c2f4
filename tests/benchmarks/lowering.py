"""What lowering and folding are worth on a CPU: gradients of whole models, side by side in one process.

    .venv/bin/python tests/benchmarks/lowering.py --models MobileNetV2,ResNet50 --batch-sizes 1,8

The peer is a GradientTape in a tf.function over the model itself, same weights, uncompiled. The rounds are
interleaved, so that a busy machine slows all alike; the ratio is the median over rounds with its quartiles.
Processor time (all cores, the least of the rounds) is a second witness, less shaken by other processes than
the clock. The difference is the relative L2 distance from the gradient of the uncompiled graph as traced;
near a kink or a tie (ReLU6, max pooling) rounding can send a signal another way.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from measuring import kernels_text, machine, versions

from saliency_exporter.graph.folding import fold
from saliency_exporter.graph.forward_graph import Rule
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.model import gradients
from saliency_exporter.rules.lowering import lowering_rules
from saliency_exporter.runtime.kernels import running_kernels
from saliency_exporter.sources.load import load_source
from saliency_exporter.sources.source import Source

MODELS = "efficientnet-lite0,MobileNetV2,EfficientNetB0,Xception,ResNet50,VGG16"
PEER, REFERENCE = "peer: GradientTape", "graph"
Run = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def main() -> None:
    arguments = parse_arguments()
    print(f"{machine()}, {kernels_text(running_kernels())}; {versions(['tensorflow'])}")
    print(
        f"{'model':20}{'batch':>6}  {'variant':32}{'ms':>8}{'ratio':>8}{'quartiles':>14}{'cpu':>7}"
        f"{'difference':>12}{'compile s':>11}"
    )
    for name in arguments.models.split(","):
        source = load_source(name, **({"weights": "none"} if name[0].isupper() else {}))
        variants = dict(make_variants(source, arguments.variants))
        for batch in map(int, arguments.batch_sizes.split(",")):
            measure(source, variants, batch, arguments.rounds)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--variants",
        default="graph folded,graph lowered folded,xla lowered,xla lowered folded",
        help="each one graph or xla, followed by any of: lowered, without OP, folded, forward",
    )
    return parser.parse_args()


def make_variants(source: Source, names: str) -> Iterator[tuple[str, Run]]:
    yield PEER, tape(source)
    graph = trace(source)
    forwards = {False: Forward(graph)}
    if "folded" in names:
        forwards[True] = Forward(fold(graph))
    yield REFERENCE, tf.function(replay(forwards[False], {}, False, forward_only=False), autograph=False)
    for name in names.split(","):
        words = name.split()
        compiled = name.startswith("xla")
        rules = {}
        if "lowered" in words:
            rules = lowering_rules("cpu", compiled=compiled, kernels=running_kernels())
        for op in (after for before, after in pairwise(words) if before == "without"):
            rules.pop(op, None)
        run = replay(forwards["folded" in words], rules, compiled, forward_only="forward" in words)
        yield name, tf.function(run, jit_compile=compiled, autograph=False)


def tape(source: Source) -> Run:
    @tf.function(autograph=False)
    def run(x: tf.Tensor, class_index: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as recorded:
            recorded.watch(x)
            score = tf.gather(source.call(x), class_index, batch_dims=1)
        return recorded.gradient(score, x)

    return run


def replay(forward: Forward, rules: dict[str, Rule], compiled: bool, forward_only: bool) -> Run:
    def scores(x: tf.Tensor) -> tf.Tensor:
        return forward.scores(x, rules=rules, compiled=compiled)

    if forward_only:
        return lambda x, class_index: scores(x)
    return lambda x, class_index: gradients(scores, x, class_index).gradients


def measure(source: Source, variants: dict[str, Run], batch: int, rounds: int) -> None:
    generator = np.random.default_rng(0)
    x = tf.constant(generator.uniform(-1, 1, (batch, *source.input_shape)), tf.float32)
    class_index = tf.zeros([batch], tf.int32)
    first, compile_seconds = {}, {}
    for name, run in variants.items():
        start = time.perf_counter()
        first[name] = run(x, class_index).numpy()
        compile_seconds[name] = time.perf_counter() - start
        run(x, class_index)
    wall, cpu = {name: [] for name in variants}, {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            clock, processor = time.perf_counter(), time.process_time()
            run(x, class_index).numpy()
            wall[name].append(time.perf_counter() - clock)
            cpu[name].append(time.process_time() - processor)
    for name in variants:
        low, middle, high = np.percentile(np.divide(wall[name], wall[PEER]), [25, 50, 75])
        processor = np.min(cpu[name]) / np.min(cpu[PEER])
        difference = distance(first[name], first[REFERENCE])
        print(
            f"{source.name:20}{batch:6}  {name:32}{1e3 * np.median(wall[name]):8.1f}{middle:8.2f}"
            f"{f'{low:.2f}-{high:.2f}':>14}{processor:7.2f}{difference:>12}{compile_seconds[name]:11.1f}",
            flush=True,
        )


def distance(a: np.ndarray, b: np.ndarray) -> str:
    """Relative L2 distance; the peer's scores may be probabilities, and a forward pass has other values."""
    return f"{np.linalg.norm(a - b) / np.linalg.norm(b):.1e}" if a.shape == b.shape else "-"


if __name__ == "__main__":
    main()
