"""What TensorFlow's remapper makes one op of is computed by both sets of CPU kernels, and right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from callables import source_of
from tensorflow.python.framework.test_util import IsMklEnabled

from saliency_exporter.forward import Forward
from saliency_exporter.fusions import portable_graph
from saliency_exporter.tracing import trace

layers = keras.layers
ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
KERNEL_SETS = {"0": "Eigen", "1": "oneDNN"}


def child(*command: str, onednn: str, timeout: float) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=timeout, env=environment, cwd=ROOT
    )


def succeeds(*command: str, onednn: str, timeout: float) -> None:
    done = child(*command, onednn=onednn, timeout=timeout)
    assert done.returncode == 0, f"{done.stdout[-5000:]}\n{done.stderr[-2000:]}"


def graph_of(*body: keras.Layer, shape: tuple[int, ...] = (9, 8, 4)):
    model = keras.Sequential([keras.Input(shape), *body, layers.Flatten(), layers.Dense(3)])
    return trace(source_of(model, shape))


def ops(graph) -> list[str]:
    return [node.op for node in graph.nodes]


# --- every pattern, with both sets of kernels --------------------------------------------------------------


@pytest.mark.parametrize("onednn", KERNEL_SETS, ids=KERNEL_SETS.values())
def test_what_a_set_of_kernels_lacked_or_got_wrong_is_right_with_it(onednn):
    succeeds("tests/matrix/fusions.py", onednn=onednn, timeout=280)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("onednn", KERNEL_SETS, ids=KERNEL_SETS.values())
def test_every_pattern_is_right_with_a_set_of_kernels(onednn):
    succeeds("tests/matrix/fusions.py", "all", onednn=onednn, timeout=7000)


def test_random_architectures_are_right_with_the_other_set_of_kernels():
    other = "0" if IsMklEnabled() else "1"
    file = str(HERE / "test_random_architectures.py")
    succeeds("-m", "pytest", "-q", file, "-k", "of_a_few", onednn=other, timeout=280)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("onednn", KERNEL_SETS, ids=KERNEL_SETS.values())
def test_many_random_architectures_compiled_and_not_are_right_with_a_set_of_kernels(onednn):
    succeeds("-m", "pytest", "-q", str(HERE / "test_random_architectures.py"), onednn=onednn, timeout=7000)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("onednn", KERNEL_SETS, ids=KERNEL_SETS.values())
def test_families_of_applications_answer_alike_compiled_and_not_with_a_set_of_kernels(onednn):
    succeeds("tests/matrix/kernels.py", onednn=onednn, timeout=7000)


# --- what is rewritten, and what is not --------------------------------------------------------------------


def test_a_bias_is_rewritten_behind_a_grouped_convolution_and_nowhere_else():
    graph = graph_of(
        layers.Conv2D(8, 3), layers.DepthwiseConv2D(3), layers.Conv2D(8, 3, groups=2), layers.Conv2D(8, 1)
    )
    rewritten = portable_graph(graph)
    kinds = [(before.op, after.op) for before, after in zip(graph.nodes, rewritten.nodes, strict=True)]
    biases = [after for before, after in kinds if before in ("BiasAdd", "AddV2", "Add")]
    assert [before for before, _ in kinds].count("BiasAdd") == 5
    assert biases == ["BiasAdd", "BiasAdd", "AddV2", "BiasAdd", "BiasAdd"]
    assert [node.name for node in rewritten.nodes] == [node.name for node in graph.nodes]


def test_a_graph_without_such_patterns_is_the_same_graph():
    graph = graph_of(
        layers.Conv2D(8, 3, dilation_rate=2, activation="relu"),
        layers.Conv2D(8, 1),
        layers.BatchNormalization(),
        layers.LeakyReLU(),
        layers.ZeroPadding2D(),
        layers.MaxPool2D(),
    )
    assert portable_graph(graph).nodes == graph.nodes


@pytest.mark.parametrize(
    ("activation", "again", "kind"),
    [
        (lambda: layers.LeakyReLU(0.3), False, "Squeeze"),
        (layers.ReLU, False, "Add"),
        (layers.ReLU, True, "Squeeze"),
        (lambda: layers.Activation("tanh"), True, "Add"),
    ],
    ids=["leaky", "relu", "relu, and read again", "tanh, and read again"],
)
def test_a_sum_is_kept_from_a_convolution_where_its_fusion_is_wrong_or_fails(activation, again, kind):
    inputs = keras.Input((9, 8, 4))
    total = layers.Add()([layers.Conv2D(4, 3, padding="same")(inputs), inputs])
    x = activation()(total)
    x = layers.Multiply()([x, total]) if again else x
    graph = trace(source_of(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x))), (9, 8, 4)))
    rewritten = portable_graph(graph)
    activated = next(node for node in rewritten.nodes if node.op in ("LeakyRelu", "Relu", "Tanh"))
    assert rewritten.node_map()[activated.input[0].split(":")[0]].op.startswith(kind)
    assert set(graph.node_map()) <= set(rewritten.node_map())


def test_a_batch_normalization_behind_a_grouped_convolution_is_a_scale_and_an_offset():
    rng = np.random.default_rng(0)
    kernel = tf.Variable(rng.normal(size=(3, 3, 2, 8)).astype("f"))
    statistics = [tf.Variable(rng.uniform(0.5, 2, 8).astype("f")) for _ in range(4)]

    def network(x: tf.Tensor) -> tf.Tensor:
        y = tf.nn.conv2d(x, kernel, 1, "SAME")
        gamma, beta, mean, variance = statistics
        y, *_ = tf.raw_ops.FusedBatchNormV3(
            x=y, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=0.1, is_training=False
        )
        return tf.reduce_sum(tf.nn.relu(y), axis=[1, 2])

    graph = portable_graph(trace(source_of(network, (9, 8, 4)), score="output"))
    assert "FusedBatchNormV3" not in ops(graph)
    images = rng.normal(size=(2, 9, 8, 4)).astype("f")
    expected = tf.function(network, jit_compile=True)(images)
    got = tf.function(Forward(graph).scores)(tf.constant(images))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


_OPS_THAT_RUN = """
import numpy as np, tensorflow as tf
from callables import source_of
from saliency_exporter.forward import Forward
from saliency_exporter.tracing import trace
kernels = [tf.Variable(np.ones((3, 3, c, 8), "f")) for c in (4, 2)]
bias = tf.Variable(np.ones(8, "f"))
def network(x):
    ys = [tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)) for kernel in kernels]
    return tf.reduce_sum(tf.add_n(ys), [1, 2])
forward = Forward(trace(source_of(network, (9, 8, 4)), score="output"))
with tf.Graph().as_default() as graph:
    x = tf.compat.v1.placeholder(tf.float32, (None, 9, 8, 4))
    forward.variables = {n: tf.Variable(w, trainable=False) for n, w in forward.graph.weights.items()}
    y = forward.scores(x)
with tf.compat.v1.Session(graph=graph) as session:
    session.run([variable.initializer for variable in forward.variables.values()])
    options = tf.compat.v1.RunOptions(output_partition_graphs=True)
    metadata = tf.compat.v1.RunMetadata()
    session.run(y, {x: np.ones((2, 9, 8, 4))}, options, metadata)
for partition in metadata.partition_graphs:
    print(*(node.op for node in partition.node if "Conv" in node.op or "Relu" in node.op))
"""


@pytest.mark.parametrize(
    ("onednn", "expected"),
    [
        ("0", ["Conv2D", "Relu", "_FusedConv2D"]),
        ("1", ["_MklNativeFusedConv2D", "_MklNativeFusedConv2D"]),
    ],
    ids=KERNEL_SETS.values(),
)
def test_bias_and_activation_stay_part_of_a_convolution_where_the_kernels_take_them(onednn, expected):
    path = os.pathsep.join([str(HERE), *sys.path])
    done = child(
        "-c",
        f"import sys; sys.path[:0] = {path.split(os.pathsep)!r}\n{_OPS_THAT_RUN}",
        onednn=onednn,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(done.stdout.split()) == expected
