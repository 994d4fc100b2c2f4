"""Samples in fewer bits: which tensors of a replay have which dtype, and what the maps are."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from built_signatures import Signatures, signatures_of
from callables import source_of

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.feature_layers import with_feature_layer
from saliency_exporter.graph.lower_precision import in_fewer_bits
from saliency_exporter.graph.nodes import output_types
from saliency_exporter.graph.trace import trace

SHAPE = (12, 10, 3)
PARAMETERS = {
    "class_index": np.array([2, -1], np.int32),
    "num_samples": np.array([7, 4], np.int32),
    "noise_level": np.array([0.2, 0.1], np.float32),
    "seed": np.array([5, 6], np.int32),
}


def network(activation: str = "relu") -> keras.Model:
    keras.utils.set_random_seed(4)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Rescaling(1.5),
            layers.Conv2D(6, 3, strides=2, activation=activation, padding="same"),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.LayerNormalization(),
            layers.Conv2D(5, 3, activation="swish"),
            layers.Flatten(),
            layers.Dense(4, activation="softmax"),
        ]
    )


def attention(x: tf.Tensor) -> tf.Tensor:
    tokens = tf.reshape(x, [-1, 120, 3]) @ tf.constant([[1.0, 0.2], [0.4, -0.3], [0.1, 0.8]])
    weights = tf.nn.softmax(tokens @ tf.transpose(tokens, [0, 2, 1]))
    return tf.reshape(weights @ tokens, [-1, 240])[:, :4]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(2, *SHAPE)).astype(np.float32)


def floats(graph) -> dict[str, set[str]]:
    """Op type to the float dtypes of its outputs."""
    found: dict[str, set[str]] = {}
    for node in graph.nodes:
        names = {dtype.name for dtype in output_types(node) if dtype.is_floating}
        found[node.op] = found.get(node.op, set()) | names
    return found


def test_products_turn_and_statistics_exponentials_and_what_is_in_front_stay(images):
    dtypes = floats(in_fewer_bits(trace(source_of(network(), SHAPE)), tf.bfloat16, "model").graph)
    for op in ("Conv2D", "DepthwiseConv2dNative", "BiasAdd", "Relu", "MatMul"):
        assert dtypes[op] == {"bfloat16"}, op
    for op in ("Mean", "Rsqrt", "SquaredDifference", "Placeholder"):
        assert dtypes.get(op, {"float32"}) == {"float32"}, op
    # Rescaling comes before any product; the normalization is made of float32 means.
    assert "float32" in dtypes["Mul"]


def test_a_softmax_between_products_stays():
    dtypes = floats(in_fewer_bits(trace(source_of(attention, SHAPE)), tf.float16, "model").graph)
    assert dtypes["Softmax"] == {"float32"}
    assert dtypes["BatchMatMulV2"] == {"float16"}


def test_integers_stay_and_no_weight_is_cast_inside():
    graph = trace(source_of(network(), SHAPE))
    lowered = in_fewer_bits(graph, tf.bfloat16, "model")
    before = {n.name: output_types(n) for n in graph.nodes}
    for node in lowered.graph.nodes:
        for old, new in zip(before.get(node.name, []), output_types(node), strict=False):
            assert old == new or (old, new) == (tf.float32, tf.bfloat16)
    kernels = {name for name, weight in graph.weights.items() if weight.ndim > 1}
    assert kernels <= set(lowered.weights.values())


def of_keras(model: keras.Model, x: np.ndarray, dtype: str) -> np.ndarray:
    """The gradient of the logit of class 2 where Keras itself computes the products in a dtype, [B, …]."""
    layers = []
    for layer in model.layers:
        config = layer.get_config()
        mixed = dtype != "float32" and type(layer).__name__ in ("Conv2D", "DepthwiseConv2D", "Dense")
        config["dtype"] = f"mixed_{dtype}" if mixed else "float32"
        layers.append(type(layer).from_config(config))
    other = keras.Sequential([keras.Input(SHAPE), *layers])
    other.set_weights(model.get_weights())
    other.layers[-1].activation = keras.activations.linear
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = tf.cast(other(x)[:, 2], tf.float32)
    return tape.gradient(score, x).numpy()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_are_nearer_to_kerass_mixed_precision_than_float32_is(images, dtype):
    model = network("elu")
    built = signatures_of(model, SHAPE, methods=["smooth"], sample_precision=dtype, lowering=False)
    got = built("explain_smooth", images, class_index=2, num_samples=1, noise_level=0.0)["gradients"]
    exact, mixed = of_keras(model, images, "float32"), of_keras(model, images, dtype)
    unit = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
    off = np.linalg.norm(got - exact) / np.linalg.norm(exact)
    assert unit / 8 < off < 8 * unit
    assert np.linalg.norm(mixed - exact) / np.linalg.norm(exact) < 8 * unit


SAMPLED = ("smooth",), ("smooth(guided)", "smooth(grad_cam)")
# Quick: each value of each, the methods of other gradients with what an export has by default.
QUICK = {(SAMPLED[0], "none", False), (SAMPLED[1], "none", True)}


@pytest.mark.parametrize(
    ("methods", "compile", "lowering"),
    [
        pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow)
        for methods in SAMPLED
        for case in ((methods, "none", True), (methods, "xla", True), (methods, "none", False))
    ],
)
def test_maps_over_samples_are_near_float32_and_the_clean_image_is_float32(
    images, methods, compile, lowering
):
    graph = with_feature_layer(trace(source_of(network("elu"), SHAPE)), "model", None)
    plain = Signatures(graph, methods=methods)
    low = Signatures(graph, methods=methods, compile=compile, lowering=lowering, sample_precision="bfloat16")
    for name in plain.functions:
        if name == "serving_default":
            continue
        expected, got = plain(name, images, **PARAMETERS), low(name, images, **PARAMETERS)
        for output, value in got.items():
            wanted = expected[output]
            assert value.dtype == wanted.dtype
            off = np.linalg.norm(value - wanted) / np.linalg.norm(wanted)
            if output in ("score", "probability", "class_index"):
                assert off < 1e-5, output
            else:
                assert off < 0.05, output
        map_name = next(n for n in ("gradients", "cam") if n in got)
        off = np.linalg.norm(got[map_name] - expected[map_name]) / np.linalg.norm(expected[map_name])
        assert off > 1e-4, "the samples were not in fewer bits"


def test_rise_takes_its_masks_in_fewer_bits(images):
    graph = trace(source_of(network("elu"), SHAPE))
    parameters = {"num_masks": 9, "seed": 3, "class_index": 2}
    plain = Signatures(graph, methods=("rise",))("explain_rise", images, **parameters)
    low = Signatures(graph, methods=("rise",), sample_precision="bfloat16")
    got = low("explain_rise", images, **parameters)
    off = np.linalg.norm(got["saliency"] - plain["saliency"]) / np.linalg.norm(plain["saliency"])
    assert 1e-6 < off < 0.01
    np.testing.assert_array_equal(got["score"], plain["score"])


def test_weights_are_cast_in_front_of_the_loop():
    built = signatures_of(network(), SHAPE, methods=["smooth"], sample_precision="bfloat16")
    graph = built.functions["explain_smooth"].get_concrete_function().graph
    outside = [o for o in graph.get_operations() if o.type == "Cast" and o.outputs[0].dtype == tf.bfloat16]
    assert len(outside) >= 3
    for function in graph.as_graph_def().library.function:
        nodes = {node.name: node for node in function.node_def}
        for node in nodes.values():
            if node.op == "Cast" and node.attr["DstT"].type == tf.bfloat16.as_datatype_enum:
                producer = nodes.get(node.input[0].split(":")[0])
                while producer is not None and producer.op == "Identity":
                    producer = nodes.get(producer.input[0].split(":")[0])
                assert producer is None or producer.op != "ReadVariableOp", node.name


def test_an_op_without_a_kernel_is_refused_by_its_layer():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4, 4, 4, 2)),
            keras.layers.Conv3D(3, 2),
            keras.layers.MaxPool3D(2, name="halved"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    with pytest.raises(ExportError, match=r"no kernel for MaxPool3D in float16.*halved") as refused:
        in_fewer_bits(trace(source_of(model, (4, 4, 4, 2))), tf.float16, "model")
    assert refused.value.hint == "--sample-precision bfloat16 or float32"
    in_fewer_bits(trace(source_of(model, (4, 4, 4, 2))), tf.bfloat16, "model")
