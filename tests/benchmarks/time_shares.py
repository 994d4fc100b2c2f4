"""Where the time of a call goes: a traced call by kind of op, against what the machine can do.

    .venv/bin/python tests/benchmarks/time_shares.py --models VGG16 --batch-sizes 1,8

Each model is exported twice for a CPU, uncompiled and compiled by XLA, and loaded as TensorFlow Serving does.
Uncompiled, the runtime records each op; compiled, XLA records its fused loops, and what is left are products
and convolutions, which run beside the record. GFLOP/s count the arithmetic that direct convolutions and
products would take, over the time in them: minimal filtering takes less, and can be above the peak. The peak
is that of a matrix product of 4096³, measured before each model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent)]

from measuring import interleaved, machine, versions  # noqa: E402

from saliency_exporter.methods.registry import find_methods  # noqa: E402
from saliency_exporter.runtime.quiet import import_tensorflow  # noqa: E402

import_tensorflow()

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow.tsl.profiler.protobuf import xplane_pb2  # noqa: E402

from saliency_exporter.contract.settings import Settings  # noqa: E402
from saliency_exporter.graph.folding import fold  # noqa: E402
from saliency_exporter.graph.replay import Forward  # noqa: E402
from saliency_exporter.graph.trace import trace  # noqa: E402
from saliency_exporter.sources.load import load_source  # noqa: E402
from saliency_exporter.sources.source import Source  # noqa: E402
from saliency_exporter.version.write import Export, export  # noqa: E402

v1 = tf.compat.v1
MODELS = "efficientnet-lite0,MobileNetV2,EfficientNetB0,Xception,ResNet50,VGG16"
CLASSES = {
    "depthwise": ("Depthwise",),
    "products": ("Conv2D", "MatMul"),
    "pooling": ("Pool",),
    "activations, masks, sums": ("Relu", "Sigmoid", "Mul", "Add", "Sub", "Select", "Softplus"),
}
"""Kinds of work by what the name of an op contains, the first that fits."""
CALLS = 5
SIGNATURES = ("serving_default", "explain_gradients", "explain_guided")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--ops", type=int, default=0, help="print so many of the longest kinds of op too")
    arguments = parser.parse_args()
    print(f"{machine()}; {versions(['tensorflow'])}\n")
    heads = ["model", "B", "call", "ms", *CLASSES, "rest", "GFLOP/s", "of the peak"]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for name in arguments.models.split(","):
        source = load_source(name, **({"weights": "none"} if name[0].isupper() else {}))
        flop = forward_flop(source)
        peak = gflops_of_a_product()
        with tempfile.TemporaryDirectory() as scratch:
            for compile_ in ("none", "xla"):
                settings = Settings(
                    methods=find_methods(("gradients", "guided")),
                    batch_sizes=(1, 8),
                    compile=compile_,
                    target="cpu",
                )
                version = export(
                    Export(source, source.preprocessing, settings, name), Path(scratch) / compile_
                )
                for batch in map(int, arguments.batch_sizes.split(",")):
                    rows(name, version, compile_, batch, flop * batch, peak, arguments.ops)


def rows(name: str, version: Path, compile_: str, batch: int, flop: float, peak: float, ops: int) -> None:
    """Print a row for each signature; `flop` is that of one forward pass of the batch."""
    label = f"{name}, {'uncompiled' if compile_ == 'none' else 'XLA'}"
    with tf.Graph().as_default(), v1.Session() as session:
        signatures = v1.saved_model.load(session, ["serve"], str(version)).signature_def
        calls = {
            key.removeprefix("explain_"): one_call(session, signatures[key], batch) for key in SIGNATURES
        }
        totals = medians_ms(calls)
        for call_name, call in calls.items():
            total = totals[call_name]
            by_op = by_recorded_op(call) if compile_ == "none" else by_fused_loop(call)
            by_class = in_classes(by_op, total, compile_)
            passes = 1 if call_name == "serving_default" else 2
            reached = passes * flop / by_class["products"] / 1e6
            cells = [label, str(batch), call_name, f"{total:.1f}", *(f"{ms:.1f}" for ms in by_class.values())]
            print(f"| {' | '.join(cells)} | {reached:.0f} | {reached / peak:.0%} of {peak:.0f} |", flush=True)
            for op, ms in by_op.most_common(ops):
                print(f"    {ms:9.2f} ms  {op}")


def in_classes(by_op: Counter[str], total: float, compile_: str) -> dict[str, float]:
    """Milliseconds by kind of work, which add up to those of an unrecorded call."""
    by_class = dict.fromkeys((*CLASSES, "rest"), 0.0)
    if compile_ == "xla":
        by_class["rest"] = sum(by_op.values())
        by_class["products"] = max(total - by_class["rest"], 0.0)
    else:
        for op, ms in by_op.items():
            by_class[class_of(op)] += ms
    scale = total / sum(by_class.values())
    return {name: scale * ms for name, ms in by_class.items()}


def class_of(op: str) -> str:
    return next((name for name, parts in CLASSES.items() if any(p in op for p in parts)), "rest")


def one_call(session: v1.Session, signature: object, batch: int) -> Callable[..., None]:
    """A call of the signature with images that are made before; takes the options of Session.run."""
    spec = signature.inputs["images"]
    shape = [dim.size for dim in spec.tensor_shape.dim][1:]
    images = np.random.default_rng(1).integers(0, 256, (batch, *shape))
    feeds = {spec.name: images.astype(tf.dtypes.as_dtype(spec.dtype).as_numpy_dtype)}
    if "class_index" in signature.inputs:
        feeds[signature.inputs["class_index"].name] = 7
    wanted = [o.name for name, o in signature.outputs.items() if name in ("saliency", "logits")]
    return lambda **options: session.run(wanted, feeds, **options)


def medians_ms(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    interleaved(calls, 3)
    return {name: float(np.median(times)) for name, times in interleaved(calls, 2 * CALLS + 1).items()}


def by_recorded_op(call: Callable[..., None]) -> Counter[str]:
    """Milliseconds of a call's ops by kind."""
    by_op: Counter[str] = Counter()
    options = v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE)
    for _ in range(CALLS):
        record = v1.RunMetadata()
        call(options=options, run_metadata=record)
        for device in record.step_stats.dev_stats:
            for node in device.node_stats:
                op = node.timeline_label.split("(")[0].split("=")[-1].strip()
                if "PartitionedCall" not in op:
                    by_op[op] += (node.op_end_rel_micros - node.op_start_rel_micros) / 1e3 / CALLS
    return by_op


def by_fused_loop(call: Callable[..., None]) -> Counter[str]:
    """Milliseconds of a call's fused loops."""
    with tempfile.TemporaryDirectory() as scratch:
        options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=3, python_tracer_level=0)
        tf.profiler.experimental.start(scratch, options)
        for _ in range(CALLS):
            call()
        tf.profiler.experimental.stop()
        (path,) = Path(scratch).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    by_op: Counter[str] = Counter()
    for name, ms in events(space):
        # A loop that is split over the cores is a call of a function; its parts have its name.
        if name.split(".")[0] == "call" or ("fusion" in name and not name.endswith(".clone")):
            by_op[name] += ms / CALLS
    return by_op


def events(space: xplane_pb2.XSpace) -> Iterator[tuple[str, float]]:
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                yield plane.event_metadata[event.metadata_id].name, event.duration_ps / 1e9


def forward_flop(source: Source) -> float:
    """Floating-point operations of one forward pass of one example: convolutions and products."""
    graph = fold(trace(source))
    forward = Forward(graph)
    spec = tf.TensorSpec((1, *graph.input_shape), tf.float32)
    traced = tf.function(forward.scores, input_signature=[spec], autograph=False).get_concrete_function()
    flop = 0.0
    for op in traced.graph.get_operations():
        if op.type in ("Conv2D", "MatMul"):
            *window, inputs, _ = op.inputs[1].shape if op.type == "Conv2D" else (1, *op.inputs[1].shape)
            flop += 2.0 * np.prod(window) * inputs * np.prod(op.outputs[0].shape)
    return flop


def gflops_of_a_product(size: int = 4096) -> float:
    """GFLOP/s of a float32 matrix product on all cores, the best of some."""
    a = tf.random.normal((size, size))
    product = tf.function(lambda: tf.matmul(a, a))
    product()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        product().numpy()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times) / 1e9


if __name__ == "__main__":
    main()
