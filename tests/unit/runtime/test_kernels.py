from __future__ import annotations

from dataclasses import replace

import pytest
import tensorflow as tf
from callables import source_of
from small_manifest import EXPORT

from saliency_exporter.contract.build import build_signatures
from saliency_exporter.contract.settings import Settings
from saliency_exporter.errors import ExportError
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods import smooth
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.runtime.kernels import resolve_kernels, running_kernels
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.version.inspection import compilation_in_words


def test_auto_is_what_runs_here_and_what_is_asked_for_is_kept_where_nothing_is_measured():
    assert resolve_kernels("auto", measured=True) == running_kernels()
    for kernels in ("onednn", "eigen"):
        assert resolve_kernels(kernels, measured=False) == kernels


def test_a_measurement_is_refused_for_kernels_that_do_not_run_here():
    other = {"onednn": "eigen", "eigen": "onednn"}[running_kernels()]
    assert resolve_kernels(running_kernels(), measured=True) == running_kernels()
    with pytest.raises(ExportError, match=f"{running_kernels()}, and --kernels is {other}") as raised:
        resolve_kernels(other, measured=True)
    assert f"TF_ENABLE_ONEDNN_OPTS={int(other == 'onednn')}" in raised.value.hint


def test_settings_choose_the_rules_of_their_kernels():
    def pictures_first_layer(kernels: str) -> set[str]:
        with tf.Graph().as_default() as graph:
            x, kernel = tf.zeros((1, 32, 32, 3)), tf.zeros((3, 3, 3, 8))
            node = tf.nn.conv2d(x, kernel, 2, "SAME").op.node_def
            rule = Settings(target="cpu", kernels=kernels).rules(compiled=False)["Conv2D"]
            outputs = rule(node, [x, kernel])
            if outputs is not None:
                tf.gradients(outputs[0], x)
            return {op.type for op in graph.get_operations()}

    assert "IdentityN" in pictures_first_layer("onednn")
    assert "IdentityN" not in pictures_first_layer("eigen")


def test_inspect_says_in_a_sentence_who_compiles_for_which_servers():
    def shown(target: str, compile: str, kernels: str) -> str:
        return compilation_in_words(replace(EXPORT, target=target, compile=compile, kernels=kernels))

    not_compiled = "not by XLA: the server runs the graph op by op"
    assert shown("gpu", "none", "onednn") == f"{not_compiled}, for servers with a GPU"
    assert shown("cpu", "xla", "eigen") == "by XLA, for servers without a GPU"
    with_eigen = "for servers without a GPU, with Eigen's kernels"
    assert shown("cpu", "auto", "eigen") == f"by XLA where that is faster, {with_eigen}"
    assert shown("cpu", "none", "eigen") == f"{not_compiled}, {with_eigen}"


def depthwise(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.nn.depthwise_conv2d(x, tf.ones((3, 3, 2, 1)), [1] * 4, "SAME"), [1, 2])


def pooled(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.nn.max_pool2d(x, 2, 2, "SAME"), [1, 2])


@pytest.mark.parametrize(
    ("call", "settings", "images"),
    [
        (depthwise, {"compile": "xla"}, 2),
        (depthwise, {"compile": "xla", "lowering": False}, 10),
        (depthwise, {"compile": "xla", "target": "gpu"}, 10),
        (depthwise, {"compile": "none"}, 10),
        (pooled, {"compile": "xla"}, 10),
    ],
)
def test_a_step_of_smooth_is_small_where_xla_makes_loops_of_depthwise_convolutions(
    call, settings, images, monkeypatch
):
    taken = []
    whole = smooth.smooth

    def watched(*arguments: object, images_at_once: int) -> object:
        taken.append(images_at_once)
        return whole(*arguments, images_at_once=images_at_once)

    monkeypatch.setattr(smooth, "smooth", watched)
    forward = Forward(trace(source_of(call, (4, 4, 2))))
    settings = {"batch_sizes": (1,), "target": "cpu", **settings}
    settings = Settings(methods=find_methods(("smooth",)), **settings)
    functions = build_signatures(forward, builtin("none"), settings, "model")
    functions["explain_smooth"].get_concrete_function()
    assert set(taken) == {images}
