"""Writes the GPU bundle: compiled cores as HLO, weights, inputs, and what the answers must be.

python tests/gpu/make_bundle.py OUT [--models every-op,…] [--batch-sizes 1,8,32]

The file is a zip with run_bundle.py as its __main__.py: `python OUT` runs it, with numpy and jax alone. It
holds, for every model, the weights once; the HLO of every signature's core at every batch size, whose
arguments are the signature's inputs and then weights; two examples; and for each output the float32 reference
with its distance from an evaluation of the model in float64.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.contract.build import build_cores
from saliency_exporter.contract.checks import default_of
from saliency_exporter.contract.examples import parameter_examples, reference_inputs
from saliency_exporter.contract.settings import Settings
from saliency_exporter.errors import ExportError
from saliency_exporter.graph.channels import with_channels_found
from saliency_exporter.graph.feature_layers import with_feature_layer
from saliency_exporter.graph.folding import fold
from saliency_exporter.graph.forward_graph import ForwardGraph, node_name, tensor_name
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.noise import random_bits, standard_normal
from saliency_exporter.methods.registry import DEFAULT, OWN, find_methods
from saliency_exporter.runtime.functions import Function
from saliency_exporter.sources.load import load_source
from saliency_exporter.sources.preprocessing import Preprocessing, builtin
from saliency_exporter.sources.source import Source
from saliency_exporter.version.describe import describe_rounding
from saliency_exporter.version.reference import COMPARED
from saliency_exporter.version.sample_agreement import hold_to_float32
from saliency_exporter.version.tolerances import Tolerances, tolerances

HERE = Path(__file__).parent
BATCH_SIZES = (1, 8, 32)
MOST_BYTES = 60_000_000
SAMPLES_IN_FEWER_BITS = 8
"""The batch size at which smooth is in the bundle once more, with samples in bfloat16."""
NOISE_SHAPE = (64, 64, 3)
REBUILT = frozenset({"Conv2D", "DepthwiseConv2dNative", "BiasAdd", "AddV2", "Relu6", "Mean", "MatMul"})
"""The ops of which run_bundle.py can make a forward pass of its own, for jax to differentiate."""


@dataclass(frozen=True)
class Entry:
    """A model of the bundle: its name, a line about it, its source, its preprocessing and its methods."""

    name: str
    title: str
    source: Source
    preprocessing: Preprocessing
    methods: tuple[str, ...]


def entries(names: Sequence[str]) -> Iterator[Entry]:
    """The models by name, one after the other."""
    for name in names:
        if name == "efficientnet-lite0":
            source = load_source(name)
            title = "EfficientNet-Lite0, trained on ImageNet, 224 × 224"
        elif name == "mobilenet-v2":
            tf.keras.utils.set_random_seed(1)
            source = load_source("MobileNetV2", weights="none")
            title = "MobileNetV2, random weights, 224 × 224"
        elif name == "every-op":
            sys.path.insert(0, str(HERE))
            source = replace(load_source("bundle_models:every_op"), preprocessing=builtin("tf"))
            title = "every op of exporter/COVERAGE.md, random weights, 32 × 32"
        else:
            raise SystemExit(
                f"there is no model {name}; there are efficientnet-lite0, mobilenet-v2, every-op"
            )
        assert source.preprocessing is not None
        yield Entry(name, title, source, source.preprocessing, OWN if name == "every-op" else DEFAULT)


class Archive:
    """The file that is written, and how it is read back by run_bundle.py."""

    def __init__(self, path: Path) -> None:
        self.zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9)

    def arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        self.zip.writestr(name, buffer.getvalue())

    def bytes(self, name: str, data: bytes | str) -> None:
        self.zip.writestr(name, data)


def add_model(archive: Archive, entry: Entry, batch_sizes: Sequence[int]) -> dict[str, Any]:
    """Writes one model; returns what bundle.json says of it."""
    graph = with_channels_found(trace(entry.source), entry.source)
    graph = with_feature_layer(graph, entry.source.name, None)
    methods = find_methods(entry.methods)
    settings = Settings(methods=methods, batch_sizes=tuple(batch_sizes), target="gpu")
    folded = fold(graph)
    archive.arrays(f"{entry.name}/weights.npz", folded.weights)

    def build(forward: Forward, settings: Settings = settings) -> Mapping[str, Function]:
        return build_cores(forward, entry.preprocessing, settings, entry.name)

    plain = replace(settings, compile="none", lowering=False)
    arrays, own_errors = references(
        build(Forward(graph), plain), build(Forward(in_float64(graph)), plain), graph, methods
    )
    archive.arrays(f"{entry.name}/examples.npz", arrays)
    programs = [
        program(archive, entry.name, folded, name, core, size, "float32")
        for name, core in with_weights(build, folded).items()
        for size in batch_sizes
    ]
    notes: list[str] = []
    if SAMPLES_IN_FEWER_BITS in batch_sizes:
        fewer = replace(settings, methods=find_methods(("smooth",)), sample_precision="bfloat16")
        try:
            shares = hold_to_float32(Forward(folded), entry.preprocessing, fewer, entry.name)
            judged = True
            notes.append(f"samples in bfloat16: {shares['smooth']:.2g} of the standard error, uncompiled")
        except ExportError as error:
            judged = False
            notes.append(
                f"samples in bfloat16 are here for their time alone, as an export refuses them: {error}"
            )
        smooth = with_weights(lambda forward: build(forward, fewer), folded)["explain_smooth"]
        size = SAMPLES_IN_FEWER_BITS
        made = program(archive, entry.name, folded, "explain_smooth", smooth, size, "bfloat16")
        programs.append({**made, "judged": judged})
    rounding = describe_rounding(graph)
    offset, scale = affine(entry.preprocessing, graph.input_shape)
    return {
        "name": entry.name,
        "title": entry.title,
        "classes": graph.classes,
        "weights": sorted(folded.weights),
        "unverified": sorted({o.name for m in methods for o in m.outputs if not o.verified}),
        "bounds": {
            "float32": bounds(tolerances(rounding)),
            # TensorFloat-32 has the 11 significant bits of float16.
            "tf32": bounds(tolerances(replace(rounding, dtype="float16"))),
            "bfloat16": bounds(tolerances(rounding, fewer_bits=True)),
        },
        "own_errors": own_errors,
        "measures": COMPARED,
        "defaults": {
            m.signature: {p.name: default_of(p, settings.max_samples) for p in m.parameters} for m in methods
        },
        "forward": rebuildable(folded),
        "preprocessing": {"offset": offset, "scale": scale},
        "notes": notes,
        "rounding": {"depth": rounding.depth, "kinks": rounding.kinks},
        "programs": programs,
    }


def bounds(of: Tolerances) -> dict[str, float]:
    """As JSON."""
    return {"score": of.score, "gradient": of.gradient, "outlier": of.outlier}


@dataclass(frozen=True)
class Given:
    """A weight that is an argument of the function that is being traced, where `Forward` has a variable."""

    tensor: tf.Tensor

    def read_value(self) -> tf.Tensor:
        """The weight, in the function inside of which it is asked for."""
        graph = tf.compat.v1.get_default_graph()
        return self.tensor if self.tensor.graph is graph else graph.capture(self.tensor)


def with_weights(
    build: Callable[[Forward], Mapping[str, Function]], graph: ForwardGraph
) -> dict[str, Function]:
    """The cores as functions of their inputs and then of all weights, by name; compiled."""
    weights = sorted(graph.weights)
    of_weights = [tf.TensorSpec(graph.weights[name].shape, graph.weights[name].dtype) for name in weights]

    def one(signature: str, specs: Sequence[tf.TensorSpec]) -> Function:
        def whole(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
            inputs, values = arguments[: len(specs)], arguments[len(specs) :]
            given: Any = {name: Given(value) for name, value in zip(weights, values, strict=True)}
            return build(Forward(graph, shared=given))[signature](*inputs)

        return tf.function(whole, input_signature=[*specs, *of_weights], jit_compile=True, autograph=False)

    return {
        signature: one(signature, core.input_signature) for signature, core in build(Forward(graph)).items()
    }


def program(
    archive: Archive,
    model: str,
    graph: ForwardGraph,
    signature: str,
    core: Function,
    size: int,
    precision: str,
) -> dict[str, Any]:
    """Writes a core at a batch size as HLO; returns what calls it: the order of inputs and outputs."""
    specs = core.input_signature[: -len(graph.weights)]
    inputs = [tf.zeros([size, *spec.shape[1:]], spec.dtype) for spec in specs]
    weights = [tf.zeros(spec.shape, spec.dtype) for spec in core.input_signature[len(specs) :]]
    # "GPU": as a server with a GPU lowers it. No GPU is needed for that, but then no variables may be.
    hlo = core.experimental_get_compiler_ir(*inputs, *weights)(stage="hlo_serialized", platform_name="GPU")
    path = f"{model}/{signature}-{size}-{precision}.hlo"
    archive.bytes(path, hlo)
    return {
        "signature": signature,
        "batch": size,
        "precision": precision,
        "hlo": path,
        "inputs": [spec.name for spec in specs],
        "outputs": sorted(core.get_concrete_function().structured_outputs),
    }


def references(
    cores: Mapping[str, Function], exact: Mapping[str, Function], graph: ForwardGraph, methods: Sequence[Any]
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, list[float]]]]:
    """Inputs and float32 answers of both examples; and how far these are from float64, by output.

    Args:
        cores: of the graph as it was traced, uncompiled.
        exact: the same with the model in float64.
        graph: the model.
        methods: that signatures are of.

    Returns:
        Arrays as in an export's reference; and relative distances of each example, max|·| of what is one
        number an example or one a class, ‖·‖₂ of maps.
    """
    spec = next(iter(cores.values())).input_signature[0]
    shared = reference_inputs(spec, graph.classes)
    own = {method.signature: parameter_examples(method, spec) for method in methods}
    arrays = {f"input/{name}": value for name, value in shared.items()}
    distances: dict[str, dict[str, list[float]]] = {}
    for signature, core in cores.items():
        given = {**shared, **own.get(signature, {})}
        arrays |= {f"{signature}/input/{name}": value for name, value in own.get(signature, {}).items()}
        inputs = [tf.constant(given[spec.name]) for spec in core.input_signature]
        answers, truths = core(*inputs), exact[signature](*inputs)
        distances[signature] = {}
        for name, value in answers.items():
            answer, truth = value.numpy(), truths[name].numpy()
            arrays[f"{signature}/{name}"] = answer
            distances[signature][name] = [distance(a, t) for a, t in zip(answer, truth, strict=True)]
    return arrays, distances


def distance(answer: np.ndarray, truth: np.ndarray) -> float:
    """‖answer − truth‖₂ / ‖truth‖₂, where both are finite; of what is not, 0 where both are the same."""
    answer, truth = (np.ravel(values).astype(np.float64) for values in (answer, truth))
    finite = np.isfinite(truth) & np.isfinite(answer)
    assert np.array_equal(answer[~finite], truth[~finite], equal_nan=True)
    norm = max(np.linalg.norm(truth[finite]), np.finfo(np.float32).tiny)
    return float(np.linalg.norm((answer - truth)[finite]) / norm)


def in_float64(graph: ForwardGraph) -> ForwardGraph:
    """The same forward pass in float64: its input is cast in front, its scores after it."""
    single, double = tf.float32.as_datatype_enum, tf.float64.as_datatype_enum
    cast = NodeDef(name="input_in_float64", op="Cast", input=[graph.input])
    cast.attr["SrcT"].type, cast.attr["DstT"].type = single, double
    nodes = []
    for node in graph.nodes:
        copy = NodeDef()
        copy.CopyFrom(node)
        for attr in copy.attr.values():
            if attr.type == single:
                attr.type = double
            if attr.HasField("tensor") and attr.tensor.dtype == single:
                attr.tensor.CopyFrom(tf.make_tensor_proto(tf.make_ndarray(attr.tensor).astype(np.float64)))
            for index, dtype in enumerate(attr.list.type):
                attr.list.type[index] = double if dtype == single else dtype
        if node.name == graph.input:
            copy.attr["dtype"].type = single
            nodes += [copy, cast]
            continue
        for index, name in enumerate(node.input):
            if tensor_name(name) == f"{graph.input}:0":
                copy.input[index] = f"{cast.name}:0"
        nodes.append(copy)
    if not any(node.name == graph.input for node in graph.nodes):
        nodes.insert(0, cast)
    weights = {
        name: value.astype(np.float64) if value.dtype == np.float32 else value
        for name, value in graph.weights.items()
    }
    return replace(graph, nodes=tuple(nodes), weights=weights)


def rebuildable(graph: ForwardGraph) -> dict[str, Any] | None:
    """The forward pass as plain data, of which run_bundle.py makes its own; None with an op beyond it."""
    nodes = [node for node in graph.nodes if node.op not in ("Const", "Placeholder")]
    if not {node.op for node in nodes} <= REBUILT:
        return None
    return {
        "input": graph.input,
        "scores": node_name(graph.scores),
        "nodes": [
            {
                "name": node.name,
                "op": node.op,
                "inputs": [node_name(name) for name in node.input],
                "strides": list(node.attr["strides"].list.i),
                "padding": node.attr["padding"].s.decode(),
            }
            for node in nodes
        ],
    }


def affine(preprocessing: Preprocessing, shape: Sequence[int]) -> tuple[list[float], list[float]]:
    """Offset and scale of each channel: model input = offset + scale · pixel."""
    levels = [
        preprocessing.function(tf.fill((1, *shape), float(level))).numpy()[0, 0, 0] for level in (0, 1, 255)
    ]
    offset, scale = levels[0], levels[1] - levels[0]
    np.testing.assert_allclose(levels[2], offset + 255 * scale, rtol=1e-5, atol=1e-5)
    # From the far end, which rounding counts less in.
    return offset.tolist(), ((levels[2].astype(np.float64) - offset) / 255).tolist()


def add_noise(archive: Archive) -> dict[str, Any]:
    """Writes what makes noise, alone: the bits must be the same on every device."""
    pairs = int(np.prod(NOISE_SHAPE)) // 2

    def noise(seed: tf.Tensor, sample: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "bits": random_bits(seed, sample, pairs),
            "noise": standard_normal(seed, sample, NOISE_SHAPE)[:, :8],
        }

    specs = [tf.TensorSpec((2,), tf.int32, name) for name in ("seed", "sample")]
    compiled = tf.function(noise, input_signature=specs, jit_compile=True, autograph=False)
    seed, sample = tf.constant([0, 20260101]), tf.constant([3, 3])
    archive.bytes(
        "noise.hlo",
        compiled.experimental_get_compiler_ir(seed, sample)(stage="hlo_serialized", platform_name="GPU"),
    )
    expected = {name: value.numpy() for name, value in tf.function(noise)(seed, sample).items()}
    archive.arrays("noise.npz", {"seed": seed.numpy(), "sample": sample.numpy(), **expected})
    return {
        "hlo": "noise.hlo",
        "arrays": "noise.npz",
        "inputs": ["seed", "sample"],
        "outputs": sorted(expected),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", default="every-op,efficientnet-lite0,mobilenet-v2")
    parser.add_argument("--batch-sizes", default=",".join(map(str, BATCH_SIZES)))
    arguments = parser.parse_args()
    sizes = tuple(map(int, arguments.batch_sizes.split(",")))
    unfinished = arguments.out.with_suffix(".partial")
    archive = Archive(unfinished)
    models = []
    for entry in entries(arguments.models.split(",")):
        print(entry.title, flush=True)
        models.append(add_model(archive, entry, sizes))
        tf.keras.backend.clear_session()
    facts = {"format": 1, "tensorflow": tf.__version__, "noise": add_noise(archive), "models": models}
    archive.bytes("bundle.json", json.dumps(facts, indent=1))
    archive.bytes("__main__.py", (HERE / "run_bundle.py").read_text(encoding="utf-8"))
    archive.zip.close()
    size = unfinished.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{unfinished} has {size / 1e6:.0f} MB; it must have at most {MOST_BYTES / 1e6:.0f}")
    unfinished.rename(arguments.out)
    print(f"wrote {arguments.out}, {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
