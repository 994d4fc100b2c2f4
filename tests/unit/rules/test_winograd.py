"""Minimal filtering against TensorFlow's own convolution, and against float64 for its rounding."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.rules.lowering.thresholds import Minimal
from saliency_exporter.rules.lowering.winograd import winograd


def conv2d(padding="SAME", explicit_paddings=(), strides=1, dilations=1):
    return lambda x, kernel: tf.raw_ops.Conv2D(
        input=x,
        filter=kernel,
        strides=[1, strides, strides, 1],
        padding=padding,
        explicit_paddings=list(explicit_paddings),
        dilations=[1, dilations, dilations, 1],
    )


EVERYWHERE = functools.partial(winograd, worth=Minimal(channels=1, values=1))
"""The rule for however few channels: XLA takes seconds to compile one of many."""


@pytest.mark.parametrize(
    ("picture", "batch", "compiled"),
    [
        # Every picture and batch uncompiled and compiled; the rest with `make test-all`.
        *(((16, 16), 1, False), ((15, 17), 3, False), ((16, 15), 1, False)),
        *(((15, 17), 1, True), ((16, 16), 1, True)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                *(((16, 16), 3, False), ((15, 17), 1, False), ((16, 15), 3, False)),
                *(((15, 17), 3, True), ((16, 15), 1, True)),
            )
        ),
    ],
)
def test_value_and_input_gradient_are_those_of_the_convolution(run_both, generator, picture, batch, compiled):
    x = generator.normal(size=(batch, *picture, 30))
    kernel = generator.normal(size=(3, 3, 30, 40))
    (plain_y, plain_dx), (y, dx) = run_both(EVERYWHERE, conv2d(), x, kernel, compiled=compiled)
    np.testing.assert_allclose(y, plain_y, rtol=1e-11, atol=1e-10)
    np.testing.assert_allclose(dx, plain_dx, rtol=1e-11, atol=1e-10)


def test_padding_of_one_pixel_may_be_explicit(run_both, generator):
    x, kernel = generator.normal(size=(1, 16, 16, 30)), generator.normal(size=(3, 3, 30, 40))
    op = conv2d("EXPLICIT", (0, 0, 1, 1, 1, 1, 0, 0))
    (plain_y, plain_dx), (y, dx) = run_both(EVERYWHERE, op, x, kernel, oracle=conv2d())
    np.testing.assert_allclose(y, plain_y, rtol=1e-11, atol=1e-10)
    np.testing.assert_allclose(dx, plain_dx, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("compiled", [False, True])
def test_float32_is_rounded_as_little_as_by_a_direct_convolution(run_both, generator, compiled):
    """Within a factor of 4 of the direct one, whose errors grow with the 2304 terms of a sum.

    Minimal filtering sums 256 products, and before and after them at most 9 terms: no product is of
    larger numbers than a sum of 4 inputs, so nothing like the tenfold loss of F(4×4, 3×3) can be.
    """
    x = generator.normal(size=(1, 28, 28, 256)).clip(0)
    kernel = generator.normal(size=(3, 3, 256, 256)) * np.sqrt(2 / (9 * 256))
    x, kernel = x.astype(np.float32), kernel.astype(np.float32)
    exact, _ = run_both(winograd, conv2d(), x.astype(float), kernel.astype(float), compiled=False)
    direct, ours = run_both(winograd, conv2d(), x, kernel, compiled=compiled)
    for true, plain, lowered in zip(exact, direct, ours, strict=True):
        size = np.linalg.norm(true)
        assert np.linalg.norm(lowered - true) < min(1e-6 * size, 4 * np.linalg.norm(plain - true))


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((3, 3, 256, 256), {"padding": "VALID"}),
        ((3, 3, 256, 256), {"strides": 2}),
        ((3, 3, 256, 256), {"dilations": 2}),
        ((3, 3, 128, 256), {}),
        ((5, 5, 256, 256), {}),
        ((3, 1, 256, 256), {}),
        ((3, 3, 256, 64), {}),
        ((3, 3, 256, 256), {"padding": "EXPLICIT", "explicit_paddings": (0, 0, 2, 0, 1, 1, 0, 0)}),
        ((3, 3, 256, 256), {"padding": "EXPLICIT", "explicit_paddings": (0, 0, 1, 1, 0, 2, 0, 0)}),
        ((3, 3, 256, 256), {"padding": "EXPLICIT", "explicit_paddings": (0, 0, 1, 0, 1, 1, 0, 0)}),
    ],
)
def test_other_convolutions_are_declined(kernel, options):
    with tf.Graph().as_default():
        x, weight = tf.zeros((1, 28, 28, 256)), tf.constant(np.zeros(kernel, np.float32))
        y = conv2d(**options)(x, weight)
        assert winograd(y.op.node_def, [x, weight]) is None


@pytest.mark.parametrize(
    ("size", "channels", "dtype", "enough", "declined"),
    [
        (28, 256, np.float32, 100_000, False),
        (28, 256, np.float32, 101_000, True),
        (28, 256, np.float16, 1, True),
        (14, 256, np.float32, 25_000, False),
        (7, 512, np.float32, 25_000, True),
        (112, 128, np.float32, 25_000, True),
        (128, 256, np.float32, 25_000, False),
        (130, 256, np.float32, 25_000, True),
    ],
)
def test_it_is_for_many_channels_of_a_large_picture_in_full_precision(
    size, channels, dtype, enough, declined
):
    with tf.Graph().as_default():
        x = tf.zeros((1, size, size, channels), dtype)
        kernel = tf.constant(np.zeros((3, 3, channels, channels), dtype))
        node = conv2d()(x, kernel).op.node_def
        assert (winograd(node, [x, kernel], worth=Minimal(85, enough)) is None) == declined


def test_a_kernel_that_depends_on_the_picture_is_declined():
    with tf.Graph().as_default():
        x = tf.zeros((1, 28, 28, 256))
        kernel = tf.constant(np.zeros((3, 3, 256, 256), np.float32)) + tf.reduce_mean(x)
        assert winograd(conv2d()(x, kernel).op.node_def, [x, kernel]) is None


def test_a_picture_of_unknown_size_is_declined():
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, (None, None, 28, 256))
        kernel = tf.constant(np.zeros((3, 3, 256, 256), np.float32))
        assert winograd(conv2d()(x, kernel).op.node_def, [x, kernel]) is None
