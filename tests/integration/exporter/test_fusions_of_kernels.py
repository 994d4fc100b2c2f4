"""What TensorFlow's remapper makes one op of is computed by both sets of CPU kernels, and right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from callables import source_of
from tensorflow.python.framework.test_util import IsMklEnabled

from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace

ROOT = Path(__file__).parents[3]
RANDOM_ARCHITECTURES = "tests/unit/contract/test_random_architectures.py"
KERNEL_SETS = {"0": "Eigen", "1": "oneDNN"}
FUSED = {"Eigen": ["Conv2D", "Relu", "_FusedConv2D"], "oneDNN": ["_MklNativeFusedConv2D"] * 2}
EXPECTED = "SALIENCY_TEST_EXPECTED_FUSIONS"


def child(
    *command: str, onednn: str, timeout: float, expected: Path | str = ""
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment[EXPECTED] = str(expected)
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=timeout, env=environment, cwd=ROOT
    )


def succeeds(*command: str, onednn: str, timeout: float) -> None:
    done = child(*command, onednn=onednn, timeout=timeout)
    assert done.returncode == 0, f"{done.stdout[-5000:]}\n{done.stderr[-2000:]}"


def convolutions_that_run() -> list[str]:
    """The convolutions and ReLUs that TensorFlow's optimizer leaves of two, one of them grouped."""
    kernels = [tf.Variable(np.ones((3, 3, c, 8), "f")) for c in (4, 2)]
    bias = tf.Variable(np.ones(8, "f"))

    def network(x: tf.Tensor) -> tf.Tensor:
        ys = [tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)) for kernel in kernels]
        return tf.reduce_sum(tf.add_n(ys), [1, 2])

    forward = Forward(trace(source_of(network, (9, 8, 4)), score="output"))
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (None, 9, 8, 4))
        forward.variables = {n: tf.Variable(w, trainable=False) for n, w in forward.graph.weights.items()}
        y = forward.scores(x)
    metadata = tf.compat.v1.RunMetadata()
    with tf.compat.v1.Session(graph=graph) as session:
        session.run([variable.initializer for variable in forward.variables.values()])
        options = tf.compat.v1.RunOptions(output_partition_graphs=True)
        session.run(y, {x: np.ones((2, 9, 8, 4))}, options, metadata)
    nodes = [node for partition in metadata.partition_graphs for node in partition.node]
    return [node.op for node in nodes if "Conv" in node.op or "Relu" in node.op]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What XLA computes of the patterns, which is the same beside either set of kernels: computed once."""
    # The process of the other set is given the file of this one.
    return Path(os.environ.get(EXPECTED) or tmp_path_factory.mktemp("fusions") / "expected.npz")


def test_what_a_set_of_kernels_lacked_or_got_wrong_is_right_with_it_here(expected, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "matrix")
    import fusions

    assert fusions.main(["here", f"expected={expected}"]) == 0, capsys.readouterr().out[-5000:]


def test_bias_and_activation_stay_part_of_a_convolution_where_the_kernels_take_them_here():
    ran = sorted(convolutions_that_run())
    assert ran == FUSED["oneDNN" if IsMklEnabled() else "Eigen"]


def test_the_same_with_the_other_set_of_kernels(expected):
    onednn = "0" if IsMklEnabled() else "1"
    test = str(Path(__file__).relative_to(ROOT))
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", test, "-k", "_here")
    done = child(*command, onednn=onednn, timeout=280, expected=expected)
    assert done.returncode == 0, f"{done.stdout[-5000:]}\n{done.stderr[-2000:]}"
    assert "2 passed" in done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("onednn", KERNEL_SETS, ids=KERNEL_SETS.values())
def test_every_pattern_is_right_with_a_set_of_kernels(onednn):
    succeeds("tests/matrix/fusions.py", "all", onednn=onednn, timeout=7000)


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
