"""Which layers of a model have features with a place in the image, and how one is chosen by its name."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from callables import source_of
from keras import layers as L
from numpy.testing import assert_allclose

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.feature_layers import arranged, feature_layers, with_feature_layer
from saliency_exporter.graph.folding import fold
from saliency_exporter.graph.forward_graph import ForwardGraph
from saliency_exporter.graph.layer_names import layer_names
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace

SIDE, CLASSES = 16, 5


def net(*layers: keras.Layer, shape: tuple[int, ...] = (SIDE, SIDE, 3)) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential([L.Input(shape), *layers])


def traced(model: keras.Model) -> ForwardGraph:
    return trace(source_of(lambda x: model(x, training=False), model.input_shape[1:]))


def last(model: keras.Model) -> tuple[str, tuple[int, ...], int]:
    layer = feature_layers(traced(model))[-1]
    return layer.name, layer.sizes, layer.channels


def head() -> tuple[keras.Layer, ...]:
    return L.GlobalAveragePooling2D(), L.Dense(CLASSES)


class Patches(L.Layer):
    """Tokens of patches of 4 × 4 pixels, behind some that are learned and in front of others, and a place."""

    def __init__(self, before: int = 0, after: int = 0, width: int = 8) -> None:
        super().__init__()
        self.patch = L.Conv2D(width, 4, 4)
        self.before = self.add_weight(shape=(1, before, width), name="before") if before else None
        self.after = self.add_weight(shape=(1, after, width), name="after") if after else None
        count = (SIDE // 4) ** 2 + before + after
        self.place = self.add_weight(shape=(1, count, width), initializer="normal", name="place")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        y = self.patch(x)
        tokens = tf.reshape(y, [-1, y.shape[1] * y.shape[2], y.shape[3]])
        whole = [tokens]
        if self.before is not None:
            whole.insert(0, tf.repeat(tf.convert_to_tensor(self.before), tf.shape(tokens)[0], 0))
        if self.after is not None:
            whole.append(tf.repeat(tf.convert_to_tensor(self.after), tf.shape(tokens)[0], 0))
        return tf.concat(whole, 1) + self.place


class Block(L.Layer):
    """One block of a transformer: attention and a perceptron, both beside a residual."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.first, self.second = L.LayerNormalization(), L.LayerNormalization()
        self.attention = L.MultiHeadAttention(2, 4)
        self.wide, self.narrow = L.Dense(16, activation="gelu"), L.Dense(8)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        y = self.first(x)
        x = x + self.attention(y, y)
        return x + self.narrow(self.wide(self.second(x)))


class Token(L.Layer):
    """One token of all."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x[:, self.index]


def transformer(pooling: keras.Layer, before: int = 0, after: int = 0, blocks: int = 2) -> keras.Model:
    parts = [Block(f"block_{number}") for number in range(blocks)]
    return net(Patches(before, after), *parts, pooling, L.Dense(CLASSES))


def test_the_last_tensor_with_a_height_and_a_width_before_it_is_pooled() -> None:
    model = net(L.Conv2D(6, 3, 2), L.BatchNormalization(), L.ReLU(name="rectified"), *head())
    assert last(model) == ("rectified", (7, 7), 6)


def test_and_before_it_is_flattened() -> None:
    model = net(L.Conv2D(6, 3, activation="relu"), L.MaxPool2D(name="pool"), L.Flatten(), L.Dense(CLASSES))
    assert last(model) == ("pool", (7, 7), 6)


def test_a_place_of_1_by_1_is_none() -> None:
    squeezed = [L.GlobalAveragePooling2D(keepdims=True), L.Conv2D(9, 1, activation="relu"), L.Flatten()]
    model = net(L.Conv2D(6, 3, activation="relu", name="conv"), *squeezed, L.Dense(CLASSES))
    assert last(model) == ("conv", (14, 14), 6)


def test_in_a_nested_model() -> None:
    inner = net(L.Conv2D(6, 3, name="inner_conv"), L.ReLU(name="inner_relu"))
    model = net(inner, *head())
    assert last(model)[1:] == ((14, 14), 6)
    assert last(model)[0] == "inner_relu"


def test_where_branches_meet() -> None:
    image = L.Input((SIDE, SIDE, 3))
    y = L.Conv2D(4, 3, padding="same")(image)
    y = L.Add(name="sum")([L.Conv2D(4, 3, padding="same", activation="relu")(y), y])
    means, maxima = L.GlobalAveragePooling2D()(y), L.GlobalMaxPool2D()(y)
    model = keras.Model(image, L.Dense(CLASSES)(L.Concatenate()([means, maxima])))
    assert last(model) == ("sum", (16, 16), 4)


def test_sums_between_layers_are_met_where_they_are_last() -> None:
    # As in ConvNeXt: its residual sums are of no layer, and share the name of the model.
    keras.utils.set_random_seed(1)
    inputs = L.Input((SIDE, SIDE, 3))
    x = L.Conv2D(4, 3, padding="same", name="first")(inputs)
    x = x + L.Conv2D(4, 3, padding="same")(x)
    x = L.Conv2D(6, 4, 4, name="down")(x)
    features = x + L.Conv2D(6, 3, padding="same", activation="relu")(x)
    model = keras.Model(inputs, keras.Sequential(head())(features))
    graph = traced(model)
    layer = feature_layers(graph)[-1]
    images = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    forward = Forward(graph)
    (found,) = tf.function(lambda x: forward.tensors(x, [layer.tensor]))(tf.constant(images))
    expected = keras.Model(inputs, features)(images)
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_squeezing_and_excitation_is_no_way_around() -> None:
    image = L.Input((SIDE, SIDE, 3))
    y = L.Conv2D(4, 3, activation="relu")(image)
    gate = L.Dense(4, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(y))
    y = L.Multiply(name="excited")([y, gate])
    model = keras.Model(image, L.Dense(CLASSES)(L.GlobalAveragePooling2D()(y)))
    assert last(model) == ("excited", (14, 14), 4)


def test_channels_in_front_of_the_places() -> None:
    first = {"data_format": "channels_first"}
    model = net(
        L.Permute((3, 1, 2)),
        L.Conv2D(6, 3, 2, **first),
        L.ReLU(name="relu"),
        L.GlobalAveragePooling2D(**first),
        L.Dense(CLASSES),
    )
    layer = feature_layers(traced(model))[-1]
    assert (layer.name, layer.sizes, layer.channels, layer.channels_first) == ("relu", (7, 7), 6, True)
    values = np.arange(6 * 49, dtype=np.float32).reshape(1, 6, 7, 7)
    assert_allclose(arranged(layer, tf.constant(values)), np.moveaxis(values, 1, -1))


def test_a_series_has_one_axis_of_places() -> None:
    model = net(
        L.Conv1D(6, 3, 2, activation="relu"), L.GlobalAveragePooling1D(), L.Dense(CLASSES), shape=(40, 2)
    )
    assert last(model)[1:] == ((19,), 6)


@pytest.mark.parametrize("layers", [(L.Flatten(), L.Dense(7, activation="relu"))], ids=["perceptron"])
def test_none_where_nothing_has_a_place(layers: tuple[keras.Layer, ...]) -> None:
    assert feature_layers(traced(net(*layers, L.Dense(CLASSES)))) == []


def test_none_of_a_model_of_features_without_places() -> None:
    assert feature_layers(traced(net(L.Dense(7, activation="relu"), L.Dense(CLASSES), shape=(6,)))) == []


def test_pixels_are_no_features() -> None:
    model = net(L.Rescaling(2.0), L.ReLU(), L.Flatten(), L.Dense(CLASSES))
    assert feature_layers(traced(model)) == []


def ensemble() -> keras.Model:
    image = L.Input((SIDE, SIDE, 3))
    branches = [
        L.Dense(CLASSES)(L.GlobalAveragePooling2D()(L.Conv2D(4, 3, activation="relu", name=name)(image)))
        for name in ("left", "right")
    ]
    return keras.Model(image, L.Average()(branches))


def one_number(kind: str) -> ForwardGraph:
    """A model in which one number of all images takes part."""
    generator = np.random.default_rng(6)
    kernel = tf.constant(generator.normal(size=(3, 3, 3, 4)), tf.float32)
    last = tf.constant(generator.normal(size=(4, CLASSES)), tf.float32)

    def model(x: tf.Tensor) -> tf.Tensor:
        y = tf.nn.conv2d(x, kernel, 1, "VALID")
        mean = tf.reduce_mean(y)
        if kind == "a branch":
            y = tf.cond(mean > 0, lambda: tf.tanh(y), lambda: tf.sin(y))
        scores = tf.reduce_mean(y, [1, 2]) @ last
        return {"a branch": scores, "a factor": scores * mean, "all": 0 * tf.stop_gradient(scores) + mean}[
            kind
        ]

    return trace(source_of(model, (SIDE, SIDE, 3)))


@pytest.mark.parametrize("kind", ["a branch", "a factor", "all"])
def test_a_number_on_the_way_is_no_feature_layer_and_hides_none(kind: str) -> None:
    layers = feature_layers(one_number(kind))
    assert layers[-1].sizes == (SIDE - 2, SIDE - 2)


def test_none_where_branches_meet_behind_the_places_but_one_can_be_named() -> None:
    graph = traced(ensemble())
    assert feature_layers(graph) == []
    named = with_feature_layer(graph, "m", "left").features
    assert (named.name, named.sizes) == ("left", (14, 14))


@pytest.mark.parametrize(
    ("before", "after", "first", "blocks"),
    # Where tokens lie does not depend on how many blocks there are.
    [(0, 0, 0, 1), (1, 0, 1, 1), (5, 0, 5, 1), (1, 4, 1, 2), (0, 2, 0, 1)],
    ids=str,
)
def test_tokens_lie_in_a_grid_beside_others(before: int, after: int, first: int, blocks: int) -> None:
    pooling = L.GlobalAveragePooling1D()
    layer = feature_layers(traced(transformer(pooling, before, after, blocks)))[-1]
    assert (layer.sizes, layer.channels, layer.first_token) == ((4, 4), 8, first)
    assert layer.name == f"block_{blocks - 1}"
    tokens = np.arange(16 + before + after, dtype=np.float32)[None, :, None] * np.ones(8, np.float32)
    expected = first + np.arange(16, dtype=np.float32).reshape(4, 4)
    assert_allclose(arranged(layer, tf.constant(tokens))[0, ..., 0], expected)


def test_where_a_class_token_alone_is_read_the_layer_before_the_last_attention_is_the_last() -> None:
    model = transformer(Token(0), before=1)
    graph = traced(model)
    layer = feature_layers(graph)[-1]
    assert layer.name == "block_0"
    # By the original model: behind the last block the tokens of patches have no gradient, before it they do.
    x = tf.random.stateless_normal((1, SIDE, SIDE, 3), (3, 4))
    with tf.GradientTape(persistent=True) as tape:
        patches = model.layers[0](x)
        before = model.layers[1](patches)
        tape.watch(before)
        behind = model.layers[2](before)
        tape.watch(behind)
        score = model.layers[4](model.layers[3](behind))[:, 0]
    assert not np.any(tape.gradient(score, behind)[:, 1:])
    assert np.any(tape.gradient(score, before)[:, 1:])


def test_its_tensor_is_asked_for_by_the_name_of_the_layer_of_the_node_or_of_the_tensor() -> None:
    model = net(L.Conv2D(6, 3, name="early"), L.ReLU(), L.Conv2D(4, 3, name="late"), L.ReLU(), *head())
    graph = traced(model)
    early = with_feature_layer(graph, "m", "early").features
    assert (early.name, early.sizes, early.channels) == ("early", (14, 14), 6)
    node = early.tensor.removesuffix(":0")
    assert with_feature_layer(graph, "m", node).features == early
    assert with_feature_layer(graph, "m", early.tensor).features == early


def test_layers_have_the_names_that_keras_gave_them_and_not_those_of_the_trace() -> None:
    image = L.Input((SIDE, SIDE, 3))
    shared = L.Conv2D(3, 3, padding="same", name="conv_1")
    y = L.Conv2D(3, 3, padding="same", name="conv")(image)
    y = L.ReLU(name="relu_7")(shared(shared(y)))
    model = keras.Model(image, L.Dense(CLASSES)(L.GlobalAveragePooling2D()(y)))
    names = [layer.name for layer in feature_layers(traced(model))]
    assert names == ["conv", "conv_1", "relu_7"]


def test_names_of_others_stay_as_they_are() -> None:
    nodes = ["model/block_1/Relu", "model/block_1/conv/Conv2D", "StatefulPartitionedCall/net/a_1/MatMul"]
    assert layer_names(nodes[:2]) == {nodes[0]: ["model", "block_1"], nodes[1]: ["model", "block_1", "conv"]}
    assert layer_names(nodes[2:]) == {nodes[2]: ["net", "a_1"]}


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("erly", "no layer or tensor of m between its input and its scores has this name; near ones", "late"),
        ("dense", "has the shape [batch, 5], which is no grid of features", "late (12 × 12)"),
    ],
)
def test_a_name_that_is_no_feature_layer_is_refused_with_those_that_are(
    name: str, message: str, hint: str
) -> None:
    model = net(
        L.Conv2D(6, 3, name="early"), L.Conv2D(4, 3, name="late"), L.Flatten(), L.Dense(5, name="dense")
    )
    with pytest.raises(ExportError) as error:
        with_feature_layer(traced(model), "m", name)
    assert message in str(error.value)
    assert hint in error.value.hint


@pytest.mark.parametrize("chosen", ["conv", "norm", "rectified", None])
def test_folding_leaves_the_values_of_the_layer(chosen: str | None) -> None:
    norm = L.BatchNormalization(name="norm", moving_variance_initializer="ones", beta_initializer="normal")
    model = net(L.Conv2D(6, 3, name="conv"), norm, L.ReLU(name="rectified"), *head())
    norm.moving_mean.assign(np.linspace(-1, 1, 6))
    norm.moving_variance.assign(np.linspace(0.5, 2, 6))
    graph = with_feature_layer(traced(model), "m", chosen)
    x = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    forward = Forward(fold(graph))
    (values,) = tf.function(lambda x: forward.tensors(x, [forward.graph.features.tensor]))(tf.constant(x))
    inner = keras.Model(model.inputs[0], model.get_layer(chosen or "rectified").output)
    assert_allclose(values, inner(x), rtol=0, atol=1e-5)
