from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from callables import source_of

from saliency_exporter.contract.compile_choice import Choice, choose, uncompiled_sizes
from saliency_exporter.contract.settings import Settings
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.model import IMAGES_AT_ONCE, samples_of_a_step
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.rules.lowering.thresholds import XLA_IMAGES_AT_ONCE
from saliency_exporter.sources.preprocessing import builtin

AUTO = Settings(
    methods=find_methods(("gradients",)), batch_sizes=(1, 3), compile="auto", target="cpu", lowering=False
)


def choices_of(call: Callable, shape: tuple[int, ...], batch_sizes: tuple[int, ...]) -> list[Choice]:
    settings = replace(AUTO, batch_sizes=batch_sizes)
    return choose(Forward(trace(source_of(call, shape))), builtin("none"), settings, "model")


def depthwise(x: tf.Tensor) -> tf.Tensor:
    """Without its lowering, XLA runs this at least seven times slower than the op itself."""
    kernel = np.random.default_rng(0).normal(size=(3, 3, 64, 1)).astype(np.float32) / 3
    for _ in range(3):
        x = tf.nn.depthwise_conv2d(x, tf.constant(kernel), [1, 2, 2, 1], "SAME")
    return tf.reduce_mean(x, [1, 2])


def elementwise(x: tf.Tensor) -> tf.Tensor:
    """Forty small ops, which XLA makes one loop of."""
    for step in range(40):
        x = tf.abs(x - 0.01 * step)
    return tf.reduce_mean(x, [1, 2])


def on_strings(x: tf.Tensor) -> tf.Tensor:
    """Σx and Σx²; strings on the way, which XLA refuses to compile."""
    flat = tf.reshape(x, (-1, 6))
    zero = 0.0 * tf.strings.to_number(tf.strings.as_string(flat))
    return tf.stack([tf.reduce_sum(flat + zero, 1), tf.reduce_sum(flat**2, 1)], axis=1)


# So large that the slower one takes at least three times as long, whatever else the machine does.
@pytest.mark.parametrize(
    ("call", "shape", "batch_sizes", "expected"),
    [(depthwise, (32, 32, 64), (1, 3), False), (elementwise, (64, 64, 64), (1,), True)],
)
def test_what_is_far_faster_is_chosen(call, shape, batch_sizes, expected):
    choices = choices_of(call, shape, batch_sizes)
    assert {(c.signature, c.batch_size) for c in choices} == {
        (signature, size) for signature in ("serving_default", "explain_gradients") for size in batch_sizes
    }
    assert {c.compiled for c in choices if c.signature == "explain_gradients"} == {expected}


def test_smooth_is_measured_with_full_steps_compiled_and_not(monkeypatch):
    asked: dict[int, int] = {}

    def timed(function: Callable, inputs: list[tf.Tensor]) -> float:
        if len(inputs) > 1:
            images, _, num_samples, *_ = inputs
            asked[len(images)] = int(num_samples[0])
        return 1.0

    monkeypatch.setattr("saliency_exporter.contract.compile_choice._timed_ms", timed)
    settings = replace(AUTO, methods=find_methods(("smooth",)), batch_sizes=(1, 4))
    model = source_of(lambda x: tf.reduce_mean(tf.abs(x), [1, 2]), (8, 8, 2))
    choose(Forward(trace(model)), builtin("none"), settings, "model")
    assert set(asked) == {1, 4}
    for batch, samples in asked.items():
        for images_at_once in (IMAGES_AT_ONCE, XLA_IMAGES_AT_ONCE):
            assert samples % samples_of_a_step(batch, images_at_once) == 0


def test_xla_is_kept_only_where_it_is_worth_compiling():
    choices = [
        Choice("explain_gradients", 1, 9.0, 10.0),
        Choice("explain_gradients", 4, 9.9, 10.0),
        Choice("explain_gradients", 8, 10.0, 2.0),
        Choice("explain_smooth", 1, 10.0, 11.0),
    ]
    assert uncompiled_sizes(choices) == {"explain_gradients": (4, 8)}


def test_the_chosen_sizes_run_without_xla_and_the_others_with_it(signatures_of):
    settings = {"compile": "auto", "uncompiled": {"explain_gradients": (4,)}}
    built = signatures_of(on_strings, (6,), methods=("gradients",), whole=True, **settings)
    images = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    np.testing.assert_allclose(
        built("explain_gradients", images, class_index=1)["gradients"], 2 * images, rtol=1e-6
    )
    with pytest.raises(tf.errors.OpError, match="compil"):
        built("explain_gradients", images[:1], class_index=1)
    with pytest.raises(tf.errors.OpError, match="compil"):
        built("serving_default", images)
