"""Class scores and probabilities against the original: a GradientTape on the tensor before its head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from callables import source_of
from rounding import assert_equal_to_rounding

from saliency_exporter.contract.build import probabilities_of
from saliency_exporter.errors import ExportError
from saliency_exporter.graph.forward_graph import ForwardGraph
from saliency_exporter.graph.head import two_classes
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.sources.class_scores import ClassScores
from saliency_exporter.sources.load import load_source

layers = keras.layers
SHAPE = (4, 4, 3)
CLASSES = 5
RNG = np.random.default_rng(0)
IMAGES = tf.constant(RNG.normal(size=(3, *SHAPE)), tf.float32)
KERNEL = tf.Variable(RNG.normal(size=(3, 3, 3, 6)) / 3, dtype=tf.float32)
WEIGHTS = tf.Variable(RNG.normal(size=(6, CLASSES)), dtype=tf.float32)
OTHER = tf.Variable(RNG.normal(size=(6, CLASSES)), dtype=tf.float32)

Call = Callable[[tf.Tensor], tf.Tensor]


def features(x: tf.Tensor) -> tf.Tensor:
    """[B, 2, 2, 6]."""
    return tf.tanh(tf.nn.conv2d(x, KERNEL, 1, "VALID"))


def logits(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(features(x), [1, 2]) @ WEIGHTS


def other_logits(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(features(x), [1, 2]) @ OTHER


def one_logit(x: tf.Tensor) -> tf.Tensor:
    return logits(x)[:, :1]


def maps(x: tf.Tensor) -> tf.Tensor:
    """Logits of four positions, [B, 2, 2, classes]."""
    return tf.einsum("bhwc,ck->bhwk", features(x), WEIGHTS)


def on_4_axes(x: tf.Tensor) -> tf.Tensor:
    return logits(x)[:, None, None, :]


def scores_of(graph: ForwardGraph) -> np.ndarray:
    return traced(graph)(IMAGES).numpy()


def traced(graph: ForwardGraph) -> Call:
    forward = Forward(graph)
    return tf.function(lambda x: forward.scores(x), autograph=False)


def gradient(call: Call) -> np.ndarray:
    """The gradient of all class scores, each with a weight of its own."""
    with tf.GradientTape() as tape:
        tape.watch(IMAGES)
        scores = call(IMAGES)
    seeds = np.random.default_rng(1).normal(size=scores.shape).astype(np.float32)
    return tape.gradient(scores, IMAGES, seeds).numpy()


def assert_explained_by(
    graph: ForwardGraph, expected_scores: Call, model: Call, expected_probabilities: Call | None = None
) -> None:
    """The graph's scores, their gradients and its probabilities are those of the original model."""
    call = traced(graph)
    scores = call(IMAGES).numpy()
    assert_equal_to_rounding(scores, expected_scores(IMAGES).numpy(), name="scores")
    assert_equal_to_rounding(gradient(call), gradient(expected_scores), name="gradients")
    probabilities = probabilities_of(tf.constant(scores), graph.head)
    expected = (expected_probabilities or model)(IMAGES)
    assert_equal_to_rounding(probabilities.numpy(), expected.numpy(), name="probabilities")


def keras_softmax(x: tf.Tensor, axis: int) -> tf.Tensor:
    """As Keras up to 2.3 wrote it where the classes are not the last axis, or the rank is above 2."""
    e = tf.exp(x - tf.reduce_max(x, axis, keepdims=True))
    return e / tf.reduce_sum(e, axis, keepdims=True)


def normalized(x: tf.Tensor) -> tf.Tensor:
    return x / tf.reduce_sum(x, -1, keepdims=True)


def slim_softmax(x: tf.Tensor) -> tf.Tensor:
    """As tf.contrib.slim wrote it."""
    return tf.reshape(tf.nn.softmax(tf.reshape(x, [-1, x.shape[-1]])), tf.shape(x))


def stable_sigmoid(x: tf.Tensor) -> tf.Tensor:
    e = tf.exp(-tf.abs(x))
    return tf.where(x >= 0, 1 / (1 + e), e / (1 + e))


def shifted(x: tf.Tensor) -> tf.Tensor:
    return x - tf.stop_gradient(tf.reduce_max(x, -1, keepdims=True))


SOFTMAXES = {
    "as it is": lambda x: tf.nn.softmax(logits(x)),
    "cast": lambda x: tf.cast(tf.ensure_shape(tf.nn.softmax(logits(x)), [None, CLASSES]), tf.float32),
    "reshape": lambda x: tf.reshape(tf.nn.softmax(on_4_axes(x)), [-1, CLASSES]),
    "keras reshape": lambda x: layers.Reshape((CLASSES,))(layers.Softmax()(on_4_axes(x))),
    "keras flatten": lambda x: layers.Flatten()(layers.Softmax()(on_4_axes(x))),
    "squeeze": lambda x: tf.squeeze(tf.nn.softmax(on_4_axes(x)), [1, 2]),
    "expand and squeeze": lambda x: tf.expand_dims(tf.nn.softmax(logits(x)), 2)[:, :, 0],
    "slim": lambda x: tf.squeeze(slim_softmax(on_4_axes(x)), [1, 2]),
    "transposes of size 1": lambda x: tf.transpose(tf.nn.softmax(on_4_axes(x)), [0, 3, 1, 2])[:, :, 0, 0],
    "first axis": lambda x: tf.squeeze(tf.nn.softmax(logits(x)[:, :, None, None], axis=1), [2, 3]),
    "keras 2, 4 axes": lambda x: tf.reshape(keras_softmax(on_4_axes(x), -1), [-1, CLASSES]),
    "keras 2, first axis": lambda x: keras_softmax(logits(x)[:, :, None, None], 1)[:, :, 0, 0],
    "pooled pixel": lambda x: layers.GlobalAveragePooling2D()(layers.Softmax()(on_4_axes(x))),
    "largest of one": lambda x: tf.reduce_max(tf.nn.softmax(on_4_axes(x)), [-3, -2]),
    "sums of one": lambda x: tf.reduce_sum(
        tf.reduce_mean(tf.nn.softmax(on_4_axes(x)), 1, keepdims=True), [1, 2]
    ),
    "without the largest": lambda x: normalized(tf.exp(logits(x))),
    "shifted by the largest": lambda x: tf.nn.softmax(shifted(logits(x))),
    "clipped": lambda x: tf.clip_by_value(tf.nn.softmax(logits(x)), 1e-7, 1 - 1e-7),
}


@pytest.mark.parametrize("model", SOFTMAXES.values(), ids=SOFTMAXES.keys())
def test_the_scores_are_the_logits_wherever_the_softmax_is(model):
    graph = trace(source_of(model, SHAPE))
    assert (graph.head, graph.head_assumed, graph.is_probability) == ("softmax", False, False)
    assert_explained_by(graph, logits, model)


LOGARITHMS = {
    "log_softmax": lambda x: tf.nn.log_softmax(logits(x)),
    "keras": lambda x: layers.Reshape((CLASSES,))(keras.ops.log_softmax(on_4_axes(x))),
    "logsumexp": lambda x: (lambda y: y - tf.reduce_logsumexp(y, -1, keepdims=True))(logits(x)),
    "log of a softmax": lambda x: tf.math.log(tf.nn.softmax(logits(x))),
}


@pytest.mark.parametrize("model", LOGARITHMS.values(), ids=LOGARITHMS.keys())
def test_of_log_probabilities_too_the_scores_are_the_logits(model):
    graph = trace(source_of(model, SHAPE))
    assert (graph.head, graph.head_assumed) == ("softmax", False)
    assert_explained_by(graph, logits, model, lambda x: tf.nn.softmax(logits(x)))


SIGMOIDS = {
    "as it is": (lambda x: tf.sigmoid(logits(x)), logits),
    "reshape": (lambda x: tf.reshape(tf.sigmoid(on_4_axes(x)), [-1, CLASSES]), logits),
    "slice": (lambda x: tf.sigmoid(logits(x))[:, 1:3], lambda x: logits(x)[:, 1:3]),
    "gather": (
        lambda x: tf.gather(tf.sigmoid(logits(x)), [3, 0], axis=1),
        lambda x: tf.gather(logits(x), [3, 0], axis=1),
    ),
    "several positions": (
        lambda x: tf.reshape(tf.sigmoid(maps(x)), [-1, 4 * CLASSES]),
        lambda x: tf.reshape(maps(x), [-1, 4 * CLASSES]),
    ),
    "a sigmoid for each class": (
        lambda x: tf.concat([tf.sigmoid(one_logit(x)), tf.sigmoid(other_logits(x))], 1),
        lambda x: tf.concat([one_logit(x), other_logits(x)], 1),
    ),
    # The second class is decided by the first one's probability.
    "a sigmoid that reads another": (
        lambda x: (lambda p: tf.concat([p, tf.sigmoid(2 * p - 1)], 1))(tf.sigmoid(one_logit(x))),
        lambda x: (lambda z: tf.concat([z, 2 * tf.sigmoid(z) - 1], 1))(one_logit(x)),
    ),
    "a sigmoid of a sigmoid": (
        lambda x: (lambda p: tf.concat([p, tf.sigmoid(p)], 1))(tf.sigmoid(one_logit(x))),
        lambda x: (lambda z: tf.concat([z, tf.sigmoid(z)], 1))(one_logit(x)),
    ),
    "1 - p and p": (
        lambda x: (lambda p: tf.concat([1 - p, p], 1))(tf.sigmoid(one_logit(x))),
        lambda x: tf.concat([-one_logit(x), one_logit(x)], 1),
    ),
    "stack": (
        lambda x: (lambda p: tf.stack([1 - p, p], 1))(tf.sigmoid(one_logit(x)[:, 0])),
        lambda x: tf.concat([-one_logit(x), one_logit(x)], 1),
    ),
    "1 / (1 + exp(-x))": (lambda x: 1 / (1 + tf.exp(-logits(x))), logits),
    "tanh": (lambda x: 0.5 * (1 + tf.tanh(logits(x) / 2)), logits),
    "by its sign": (lambda x: (lambda z: stable_sigmoid(z))(logits(x)), logits),
}


@pytest.mark.parametrize(("model", "scores"), SIGMOIDS.values(), ids=SIGMOIDS.keys())
def test_the_scores_are_the_logits_of_the_sigmoids(model, scores):
    graph = trace(source_of(model, SHAPE))
    assert (graph.head, graph.head_assumed, graph.is_probability) == ("sigmoid", False, False)
    assert_explained_by(graph, scores, model)


def test_of_a_log_sigmoid_too_the_scores_are_the_logits():
    graph = trace(source_of(lambda x: tf.math.log_sigmoid(logits(x)), SHAPE))
    assert_explained_by(graph, logits, lambda x: tf.sigmoid(logits(x)))
    assert graph.head == "sigmoid"


def mixture_of_experts(x: tf.Tensor) -> tf.Tensor:
    gate = tf.nn.softmax(logits(x)[:, :2])
    experts = tf.nn.softmax(tf.stack([logits(x), other_logits(x)], 1))
    return tf.einsum("bg,bgk->bk", gate, experts)


PROBABILITIES = {
    "average": lambda x: (tf.nn.softmax(logits(x)) + tf.nn.softmax(other_logits(x))) / 2,
    "keras average": lambda x: layers.Average()([tf.nn.softmax(logits(x)), tf.nn.softmax(other_logits(x))]),
    "mean of a stack": lambda x: tf.reduce_mean(
        tf.stack([tf.nn.softmax(logits(x)), tf.nn.softmax(other_logits(x))]), 0
    ),
    "weighted": lambda x: 0.3 * tf.nn.softmax(logits(x)) + 0.7 * tf.nn.softmax(other_logits(x)),
    "two temperatures": lambda x: (tf.nn.softmax(logits(x)) + tf.nn.softmax(logits(x) / 3)) / 2,
    "average of positions": lambda x: tf.reduce_mean(tf.nn.softmax(maps(x)), [1, 2]),
    "average of written softmaxes": lambda x: tf.reduce_mean(keras_softmax(maps(x), -1), [1, 2]),
    "average of sigmoids": lambda x: tf.reduce_mean(tf.sigmoid(maps(x)), [1, 2]),
    "product of sigmoids": lambda x: tf.sigmoid(logits(x)) * tf.sigmoid(other_logits(x)),
    "flattened positions": lambda x: tf.reshape(tf.nn.softmax(maps(x)), [-1, 4 * CLASSES]),
    "classes over positions": lambda x: tf.reshape(
        tf.nn.softmax(tf.reshape(maps(x), [-1, 4 * CLASSES])), [-1, 4, CLASSES]
    )[:, 0],
    "each class of another position": lambda x: tf.gather(
        tf.reshape(tf.nn.softmax(maps(x)), [-1, 4 * CLASSES]), [0, 6, 12, 18, 4], axis=1
    ),
    "classes that the image chooses": lambda x: tf.gather(
        tf.nn.softmax(logits(x)), tf.range(CLASSES) * tf.cast(x[:, 0, 0, :1] <= 0, tf.int32), batch_dims=1
    ),
    "two softmaxes": lambda x: tf.concat([tf.nn.softmax(logits(x)), tf.nn.softmax(other_logits(x))], 1),
    "without the background": lambda x: tf.nn.softmax(logits(x))[:, 1:],
    "groups of classes": lambda x: tf.nn.softmax(logits(x)) @ tf.one_hot([0, 0, 1, 1, 2], 3),
    "groups of classes by segments": lambda x: tf.transpose(
        tf.math.unsorted_segment_sum(tf.transpose(tf.nn.softmax(logits(x))), [0, 0, 1, 1, 2], 3)
    ),
    "groups of classes in their order": lambda x: tf.ensure_shape(
        tf.transpose(tf.math.segment_max(tf.transpose(tf.nn.softmax(logits(x))), [0, 0, 1, 1, 2])), [None, 3]
    ),
    "groups of classes that are selected": lambda x: tf.stack(
        [tf.reduce_sum(tf.gather(tf.nn.softmax(logits(x)), c, axis=1), 1) for c in ([0, 3], [1, 2, 4])], 1
    ),
    "groups by tensordot": lambda x: tf.tensordot(
        tf.nn.softmax(logits(x)), tf.one_hot([0, 0, 1, 1, 2], 3), 1
    ),
    "the largest three": lambda x: tf.math.top_k(tf.nn.softmax(logits(x)), 3).values,
    "sorted": lambda x: tf.sort(tf.sigmoid(logits(x))),
    "those above a threshold": lambda x: (lambda p: p * tf.cast(p > 0.3, p.dtype))(tf.sigmoid(logits(x))),
    "those above a threshold, selected": lambda x: (lambda p: tf.where(p > 0.3, p, tf.zeros_like(p)))(
        tf.sigmoid(logits(x))
    ),
    "rounded to 8 bits": lambda x: tf.quantization.fake_quant_with_min_max_args(
        tf.nn.softmax(logits(x)), 0.0, 1.0
    ),
    "rounded to percents": lambda x: (lambda p: p + tf.stop_gradient(tf.round(p * 100) / 100 - p))(
        tf.nn.softmax(logits(x))
    ),
    "scaled to 0..1": lambda x: (lambda p: p / tf.reduce_max(p, -1, keepdims=True))(tf.nn.softmax(logits(x))),
    "the class that wins, straight through": lambda x: (
        lambda p: p + tf.stop_gradient(tf.one_hot(tf.argmax(p, -1), CLASSES) - p)
    )(tf.nn.softmax(logits(x))),
    "1 - p of a softmax": lambda x: 1 - tf.nn.softmax(logits(x)),
    "smoothed": lambda x: 0.9 * tf.nn.softmax(logits(x)) + 0.1 / CLASSES,
    "clipped far": lambda x: tf.clip_by_value(tf.nn.softmax(logits(x)), 0.05, 0.95),
    "experts": mixture_of_experts,
    "sharpened": lambda x: normalized(tf.nn.softmax(logits(x)) ** 2),
    "normalized votes": lambda x: normalized(tf.nn.relu(logits(x)) + 0.01),
    "hard_sigmoid": lambda x: keras.ops.hard_sigmoid(logits(x)),
    "hard_sigmoid of keras 2": lambda x: tf.clip_by_value(0.2 * logits(x) + 0.5, 0.0, 1.0),
    "probit": lambda x: 0.5 * (1 + tf.math.erf(logits(x) / np.sqrt(2))),
    "branches": lambda x: tf.cond(
        tf.reduce_sum(x) > 1e6, lambda: tf.nn.softmax(logits(x)), lambda: tf.nn.softmax(2 * logits(x))
    ),
}


@pytest.mark.parametrize("model", PROBABILITIES.values(), ids=PROBABILITIES.keys())
def test_what_is_probabilities_already_is_explained_as_it_is(model):
    graph = trace(source_of(model, SHAPE))
    assert (graph.head, graph.head_assumed, graph.is_probability) == ("output", False, True)
    assert_explained_by(graph, model, model)


LOGITS = {
    "logits": logits,
    "average of logits": lambda x: tf.reduce_mean(maps(x), [1, 2]),
    "a layer of sigmoids before the last": lambda x: tf.sigmoid(logits(x)) @ tf.transpose(OTHER),
    "a layer of large positive constants": lambda x: (
        tf.sigmoid(logits(x)) @ np.full((CLASSES, 3), 0.7, np.float32)
    ),
    "attention": lambda x: tf.reduce_sum(tf.nn.softmax(maps(x)) * maps(x), [1, 2]),
    "swish": lambda x: tf.nn.silu(logits(x)),
    "logits above a threshold": lambda x: (lambda z: z * tf.cast(z > 0.3, z.dtype))(logits(x)),
    "the largest logits": lambda x: tf.math.top_k(logits(x), 3).values,
    "logits of groups": lambda x: tf.transpose(
        tf.math.unsorted_segment_max(tf.transpose(logits(x)), [0, 0, 1, 1, 2], 3)
    ),
    "positive": lambda x: tf.exp(logits(x)),
}


@pytest.mark.parametrize("model", LOGITS.values(), ids=LOGITS.keys())
def test_anything_else_is_taken_for_logits_and_it_is_said(model):
    graph = trace(source_of(model, SHAPE))
    assert (graph.head, graph.head_assumed, graph.is_probability) == ("softmax", True, False)
    assert_explained_by(graph, model, model, lambda x: tf.nn.softmax(model(x)))


def test_a_layer_of_small_positive_weights_is_no_average():
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Flatten(),
            layers.Dense(4, activation="sigmoid"),
            layers.Dense(3, kernel_initializer=keras.initializers.Constant(0.2), use_bias=False),
        ]
    )
    assert trace(source_of(model, SHAPE)).head_assumed


def test_the_order_of_the_classes_is_that_of_the_output():
    order = [4, 2, 0, 1, 3]
    model = lambda x: tf.gather(tf.nn.softmax(logits(x)), order, axis=1)  # noqa: E731
    graph = trace(source_of(model, SHAPE))
    assert graph.head == "softmax"
    assert_explained_by(graph, lambda x: tf.gather(logits(x), order, axis=1), model)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_softmax_of_half_precision_behind_a_reshape_is_found(dtype):
    # More classes than bfloat16 can count.
    wide = tf.constant(RNG.normal(size=(CLASSES, 300)), tf.float32)

    def halves(x):
        return tf.cast(logits(x) @ wide, dtype)

    def model(x):
        probabilities = tf.nn.softmax(halves(x)[:, None, None, :])
        return tf.cast(tf.reshape(probabilities, [-1, 300]), tf.float32)

    graph = trace(source_of(model, SHAPE))
    assert (graph.head, graph.is_probability) == ("softmax", False)
    np.testing.assert_array_equal(scores_of(graph), tf.cast(halves(IMAGES), tf.float32))


@pytest.mark.parametrize("softmax", [tf.nn.softmax, slim_softmax, lambda y: keras_softmax(y, -1)])
def test_of_one_position_the_scores_are_its_logits(softmax):
    model = lambda x: softmax(maps(x))[:, 1, -1]  # noqa: E731
    graph = trace(source_of(model, SHAPE))
    assert graph.head == "softmax"
    assert_explained_by(graph, lambda x: maps(x)[:, 1, -1], model)


def test_of_one_position_in_an_order_of_its_own_the_scores_are_its_logits():
    """As a recurrent model with the time first gives it."""

    def model(x):
        by_time = tf.nn.softmax(tf.transpose(tf.reshape(maps(x), [-1, 4, CLASSES]), [1, 0, 2]))
        return tf.transpose(by_time, [1, 0, 2])[:, 2]

    graph = trace(source_of(model, SHAPE))
    assert graph.head == "softmax"
    assert_explained_by(graph, lambda x: maps(x)[:, 1, 0], model)


def test_of_one_of_several_softmaxes_the_scores_are_its_logits():
    """As a layer for each step of time gives it: a softmax for every step, one of which is chosen."""

    def by_steps(head, x):
        frames = tf.reshape(maps(x), [-1, 4, CLASSES])
        return tf.stack([head(frames[:, step]) for step in range(4)], 1)

    model = lambda x: by_steps(tf.nn.softmax, x)[:, 2]  # noqa: E731
    graph = trace(source_of(model, SHAPE))
    assert graph.head == "softmax"
    assert_explained_by(graph, lambda x: maps(x)[:, 1, 0], model)
    mean = ClassScores("steps", "mean", rank=3)
    graph = trace(source_of(lambda x: mean.of({"steps": by_steps(tf.nn.softmax, x)}), SHAPE))
    assert graph.head == "softmax"
    of_logits = lambda x: tf.reduce_mean(maps(x), [1, 2])  # noqa: E731
    assert_explained_by(graph, of_logits, of_logits, lambda x: tf.nn.softmax(of_logits(x)))


def test_a_mean_over_positions_whose_classes_are_in_different_orders_is_a_mixture():
    mean = ClassScores("steps", "mean", rank=3)

    def model(x):
        first, second = tf.nn.softmax(maps(x)[:, 0, 0]), tf.nn.softmax(maps(x)[:, 1, 1])
        return mean.of({"steps": tf.stack([first, tf.reverse(second, [1])], 1)})

    graph = trace(source_of(model, SHAPE))
    assert (graph.head, graph.is_probability) == ("output", True)
    assert_explained_by(graph, model, model)


@pytest.mark.parametrize(
    ("squashed", "head"),
    [(tf.nn.softmax, "softmax"), (tf.nn.log_softmax, "softmax"), (tf.sigmoid, "sigmoid")],
)
def test_the_mean_that_a_user_asks_for_is_one_of_logits(squashed, head):
    mean = ClassScores("maps", "mean", rank=4)
    graph = trace(source_of(lambda x: mean.of({"maps": squashed(maps(x))}), SHAPE))
    assert (graph.head, graph.is_probability) == (head, False)
    of_logits = lambda x: tf.reduce_mean(maps(x), [1, 2])  # noqa: E731
    assert_explained_by(
        graph, of_logits, of_logits, lambda x: getattr(tf.nn, head)(tf.reduce_mean(maps(x), [1, 2]))
    )


@pytest.mark.parametrize("softmax", [tf.nn.softmax, tf.nn.log_softmax, slim_softmax])
def test_a_softmax_of_one_class_is_refused_with_the_sigmoid_that_is_meant(softmax):
    model = lambda x: softmax(one_logit(x))  # noqa: E731
    with pytest.raises(ExportError, match="softmax over one class: the probability is 1") as refusal:
        trace(source_of(model, SHAPE))
    assert "sigmoid" in (refusal.value.hint or "")
    as_it_is = trace(source_of(model, SHAPE), score="output")
    assert_explained_by(as_it_is, model, model)


def test_the_hint_of_a_softmax_of_one_class_gives_a_keras_model_that_is_explained(tmp_path):
    """The new activation survives the file, and the score is the logit that the softmax had."""
    path = tmp_path / "model.keras"
    model = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(1, activation="softmax")])
    model.layers[-1].activation = keras.activations.sigmoid
    model.save(path)
    kernel, bias = model.layers[-1].get_weights()
    logit = lambda x: tf.reshape(x, (-1, 48)) @ kernel + bias  # noqa: E731
    graph = trace(load_source(str(path)))
    assert (graph.head, graph.classes) == ("sigmoid", 1)
    assert_explained_by(graph, logit, lambda x: tf.sigmoid(logit(x)))


def test_the_output_as_it_is_is_explained_where_it_is_asked_for():
    model = SOFTMAXES["keras reshape"]
    graph = trace(source_of(model, SHAPE), score="output")
    assert (graph.head, graph.is_probability) == ("output", False)
    assert_explained_by(graph, model, model)


def test_margins_of_angles_are_logits_scaled():
    """ArcFace: cosines between the normalized features and normalized weights, times a scale."""

    def cosines(x):
        normal = tf.math.l2_normalize(tf.reduce_mean(features(x), [1, 2]), 1)
        return normal @ tf.math.l2_normalize(WEIGHTS, 0)

    graph = trace(source_of(lambda x: tf.nn.softmax(30 * cosines(x)), SHAPE))
    assert (graph.head, graph.head_assumed) == ("softmax", False)
    assert_explained_by(graph, lambda x: 30 * cosines(x), lambda x: tf.nn.softmax(30 * cosines(x)))
    graph = trace(source_of(cosines, SHAPE))
    assert (graph.head, graph.head_assumed) == ("softmax", True)


class TestTwoClasses:
    def test_of_one_sigmoid_are_the_logit_and_its_negative(self):
        graph = two_classes(trace(source_of(lambda x: tf.sigmoid(one_logit(x)), SHAPE)))
        assert (graph.head, graph.classes, graph.both_of_one) == ("sigmoid", 2, True)
        both = lambda x: tf.concat([-one_logit(x), one_logit(x)], 1)  # noqa: E731
        expected = lambda x: (lambda p: tf.concat([1 - p, p], 1))(tf.sigmoid(one_logit(x)))  # noqa: E731
        assert_explained_by(graph, both, both, expected)

    def test_of_one_logit_are_those_of_its_sigmoid(self):
        graph = two_classes(trace(source_of(one_logit, SHAPE)))
        assert (graph.head, graph.head_assumed, graph.classes) == ("sigmoid", True, 2)
        np.testing.assert_array_equal(scores_of(graph)[:, 0], -one_logit(IMAGES)[:, 0])

    @pytest.mark.parametrize(
        ("model", "score"),
        [
            (lambda x: tf.reduce_mean(tf.sigmoid(maps(x)[..., :1]), [1, 2]), "auto"),
            (lambda x: tf.sigmoid(one_logit(x)), "output"),
            (lambda x: keras.ops.hard_sigmoid(one_logit(x)), "auto"),
        ],
        ids=["an average", "asked for", "hard_sigmoid"],
    )
    def test_of_one_probability_are_that_and_the_rest_of_1(self, model, score):
        graph = two_classes(trace(source_of(model, SHAPE), score=score))
        assert (graph.head, graph.classes, graph.both_of_one) == ("output", 2, True)
        both = lambda x: tf.concat([1 - model(x), model(x)], 1)  # noqa: E731
        assert_explained_by(graph, both, both)

    def test_of_half_precision_are_of_its_dtype(self):
        graph = trace(source_of(lambda x: tf.sigmoid(tf.cast(one_logit(x), tf.float16)), SHAPE))
        p = probabilities_of(tf.constant(scores_of(two_classes(graph))), "sigmoid").numpy()
        np.testing.assert_allclose(p[:, 1], tf.sigmoid(one_logit(IMAGES))[:, 0], rtol=2e-3)
        np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)

    @pytest.mark.parametrize(
        ("model", "score"),
        [
            (logits, "auto"),
            (one_logit, "output"),
            (lambda x: 100 * tf.sigmoid(one_logit(x)), "auto"),
            (lambda x: tf.math.log_sigmoid(one_logit(x)), "output"),
        ],
        ids=["five classes", "any number", "percent", "a logarithm"],
    )
    def test_are_not_made_of_what_is_no_probability_of_one(self, model, score):
        graph = trace(source_of(model, SHAPE), score=score)
        assert two_classes(graph) is graph


def test_the_model_is_not_run_to_find_the_head_of_a_plain_one(monkeypatch):
    def refuse(*arguments):
        raise AssertionError

    monkeypatch.setattr("saliency_exporter.graph.head.values_of", refuse)
    monkeypatch.setattr("saliency_exporter.graph.squashing.values_of", refuse)
    model = keras.Sequential(
        [keras.Input(SHAPE), layers.Flatten(), layers.Dense(4), layers.Softmax(dtype="float32")]
    )
    graph = trace(source_of(model, SHAPE))
    assert graph.head == "softmax"
    assert replace(graph, head="output").classes == 4
    assert trace(source_of(keras.Sequential(model.layers[:-1]), SHAPE)).head_assumed
