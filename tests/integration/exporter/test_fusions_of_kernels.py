"""What TensorFlow's remapper makes one op of is computed by both sets of CPU kernels, and right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorflow.python.framework.test_util import IsMklEnabled

ROOT = Path(__file__).parents[3]
RANDOM_ARCHITECTURES = "tests/unit/exporter/test_random_architectures.py"
KERNEL_SETS = {"0": "Eigen", "1": "oneDNN"}


def child(*command: str, onednn: str, timeout: float) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=timeout, env=environment, cwd=ROOT
    )


def succeeds(*command: str, onednn: str, timeout: float) -> None:
    done = child(*command, onednn=onednn, timeout=timeout)
    assert done.returncode == 0, f"{done.stdout[-5000:]}\n{done.stderr[-2000:]}"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What XLA computes of the patterns, which is the same beside either set of kernels: computed once."""
    return tmp_path_factory.mktemp("fusions") / "expected.npz"


@pytest.mark.parametrize("onednn", KERNEL_SETS, ids=KERNEL_SETS.values())
def test_what_a_set_of_kernels_lacked_or_got_wrong_is_right_with_it(onednn, expected):
    succeeds("tests/matrix/fusions.py", f"expected={expected}", onednn=onednn, timeout=280)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("onednn", KERNEL_SETS, ids=KERNEL_SETS.values())
def test_every_pattern_is_right_with_a_set_of_kernels(onednn):
    succeeds("tests/matrix/fusions.py", "all", onednn=onednn, timeout=7000)


def test_random_architectures_are_right_with_the_other_set_of_kernels():
    other = "0" if IsMklEnabled() else "1"
    succeeds("-m", "pytest", "-q", RANDOM_ARCHITECTURES, "-k", "of_a_few", onednn=other, timeout=280)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("onednn", KERNEL_SETS, ids=KERNEL_SETS.values())
def test_many_random_architectures_compiled_and_not_are_right_with_a_set_of_kernels(onednn):
    succeeds("-m", "pytest", "-q", RANDOM_ARCHITECTURES, onednn=onednn, timeout=7000)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("onednn", KERNEL_SETS, ids=KERNEL_SETS.values())
def test_families_of_applications_answer_alike_compiled_and_not_with_a_set_of_kernels(onednn):
    succeeds("tests/matrix/kernels.py", onednn=onednn, timeout=7000)


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
    done = child(
        "-c",
        f"import sys; sys.path[:0] = {sys.path!r}\n{_OPS_THAT_RUN}",
        onednn=onednn,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(done.stdout.split()) == expected
