from __future__ import annotations

import keras
import numpy as np
import pytest
from numpy_net import NumpyNet, finite_differences
from rounding import assert_equal_to_rounding


def keras_model(net: NumpyNet, *, head: str | None = None) -> keras.Model:
    layers = [keras.Input(net.input_shape)]
    for kernel, bias, activation in zip(net.kernels, net.biases, net.activations, strict=True):
        layers.append(keras.layers.Conv2D(kernel.shape[3], kernel.shape[0], activation=activation))
        layers[-1].build((None, *net.input_shape[:2], kernel.shape[2]))
        layers[-1].set_weights([kernel, bias])
    layers += [
        keras.layers.Flatten(),
        keras.layers.Dense(net.dense.shape[1], use_bias=False, activation=head),
    ]
    model = keras.Sequential(layers)
    model.layers[-1].set_weights([net.dense])
    return model


@pytest.fixture(
    scope="module", params=[("relu", "relu6"), ("relu6", "relu"), ("swish", "relu6")], ids="-".join
)
def case(request, signatures_of):
    net = NumpyNet.random(request.param)
    images = np.random.default_rng(3).normal(size=(3, *net.input_shape)).astype(np.float32)
    compiled = signatures_of(
        keras_model(net, head="softmax"), net.input_shape, compile="xla", methods=("gradients", "guided")
    )
    return net, images, compiled


def test_the_networks_saturate_a_relu6_and_send_back_signals_of_both_signs():
    net = NumpyNet.random(("relu6", "relu"))
    images = np.random.default_rng(3).normal(size=(3, *net.input_shape))
    first = np.concatenate([net.pre_activations(x)[0].ravel() for x in images])
    assert (first > 6).any()
    assert ((first > 0) & (first < 6)).any()
    assert (first < 0).any()
    assert (net.dense > 0).any()
    assert (net.dense < 0).any()


def test_gradients_equal_central_differences_of_the_logit_in_float64(case):
    net, images, signatures = case
    classes = [2, 0, 3]
    got = signatures("explain_gradients", images, class_index=classes)
    for x, c, gradient in zip(images.astype(np.float64), classes, got["gradients"], strict=True):
        expected = finite_differences(lambda v, c=c: net.scores(v)[c], x)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_score_is_the_logit_and_the_probability_its_softmax(case):
    net, images, signatures = case
    got = signatures("explain_gradients", images, class_index=[1, 1, 1])
    logits = np.stack([net.scores(x) for x in images.astype(np.float64)])
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(got["score"], logits[:, 1], rtol=1e-5, atol=1e-4)
    expected = (exponentials / exponentials.sum(axis=1, keepdims=True))[:, 1]
    np.testing.assert_allclose(got["probability"], expected, rtol=1e-4, atol=1e-6)


def test_without_a_class_the_predicted_one_is_explained(case):
    net, images, signatures = case
    predicted = [int(np.argmax(net.scores(x))) for x in images.astype(np.float64)]
    got = signatures("explain_gradients", images)
    assert got["class_index"].tolist() == predicted
    asked = signatures("explain_gradients", images, class_index=predicted)
    assert_equal_to_rounding(got["gradients"], asked["gradients"])


def test_saliency_is_the_maximum_over_channels_of_the_absolute_gradient(case):
    _, images, signatures = case
    for signature in ("explain_gradients", "explain_guided"):
        got = signatures(signature, images)
        # A compiler may compute the last steps of both outputs on their own.
        assert_equal_to_rounding(got["saliency"], np.abs(got["gradients"]).max(axis=-1))


def test_guided_equals_the_backward_pass_written_out_with_both_masks(case):
    net, images, signatures = case
    classes = [2, 0, 3]
    got = signatures("explain_guided", images, class_index=classes)
    for x, c, signal in zip(images.astype(np.float64), classes, got["gradients"], strict=True):
        expected = net.backward(x, c, guided=True)
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(signal, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_guided_leaves_scores_and_classes_as_they_are(case):
    _, images, signatures = case
    guided, plain = signatures("explain_guided", images), signatures("explain_gradients", images)
    assert_equal_to_rounding(guided["score"], plain["score"])
    np.testing.assert_array_equal(guided["class_index"], plain["class_index"])


def test_the_written_out_backward_pass_itself_agrees_with_central_differences():
    net = NumpyNet.random(("relu6", "swish"))
    x = np.random.default_rng(5).normal(size=net.input_shape)
    expected = finite_differences(lambda v: net.scores(v)[1], x)
    np.testing.assert_allclose(net.backward(x, 1, guided=False), expected, rtol=1e-6, atol=1e-6)
