"""The CAM family against NumPy, of the features and gradients that the original model's own tape gives."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from built_signatures import Signatures
from callables import source_of
from keras import layers as L
from numpy.testing import assert_allclose

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.feature_layers import with_feature_layer
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.sources.load import load_source

SIDE, CLASSES = 20, 6
CAMS = ("grad_cam", "hires_cam", "layer_cam", "grad_cam_plus_plus")
X = np.random.default_rng(1).normal(size=(3, SIDE, SIDE, 3)).astype(np.float32)
GIVEN = np.array([4, -1, 2], np.int32)


def grad_cam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    cam = np.zeros(a.shape[:2])
    for k in range(a.shape[-1]):
        cam += g[..., k].mean() * a[..., k]
    return cam


def hires_cam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    return (a * g).sum(-1)


def layer_cam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    return sum(np.where(g[..., k] > 0, g[..., k] * a[..., k], 0) for k in range(a.shape[-1]))


def grad_cam_plus_plus(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    cam = np.zeros(a.shape[:2])
    for k in range(a.shape[-1]):
        weight = 0.0
        for i, j in np.ndindex(*a.shape[:2]):
            if g[i, j, k] > 0:
                square, cube = g[i, j, k] ** 2, g[i, j, k] ** 3
                weight += square / (2 * square + a[..., k].sum() * cube) * g[i, j, k]
        cam += weight * a[..., k]
    return cam


BY_NUMPY: dict[str, Callable] = {f.__name__: f for f in (grad_cam, hires_cam, layer_cam, grad_cam_plus_plus)}


def network(*last: keras.Layer) -> keras.Model:
    keras.utils.set_random_seed(3)
    image = L.Input((SIDE, SIDE, 3))
    y = L.Conv2D(6, 3, activation="relu")(image)
    y = L.Conv2D(5, 3, 2, activation="swish", name="features")(y)
    for layer in last or (L.Conv2D(7, 3, activation="relu"), L.GlobalMaxPool2D(), L.Dense(CLASSES)):
        y = layer(y)
    return keras.Model(image, y)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return network()


@pytest.fixture(scope="module")
def graph(model: keras.Model):
    traced = trace(source_of(lambda x: model(x, training=False), (SIDE, SIDE, 3)))
    return with_feature_layer(traced, "m", "features")


@pytest.fixture(scope="module")
def signatures(graph) -> Signatures:
    return Signatures(graph, methods=(*CAMS, "guided_grad_cam", "guided"))


@pytest.fixture(scope="module")
def answers(signatures: Signatures):
    return {
        name: signatures(f"explain_{name}", X, class_index=GIVEN)
        for name in (*CAMS, "guided_grad_cam", "guided")
    }


def taped(model: keras.Model, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features of the original model and the gradient of the class's score by them, in float64."""
    with tf.GradientTape() as tape:
        features = keras.Model(model.inputs[0], model.get_layer("features").output)(X)
        tape.watch(features)
        y = features
        for layer in model.layers[model.layers.index(model.get_layer("features")) + 1 :]:
            y = layer(y)
        score = tf.gather(y, classes, batch_dims=1)
    return features.numpy().astype(np.float64), tape.gradient(score, features).numpy().astype(np.float64)


@pytest.mark.parametrize("name", CAMS)
def test_a_cam_is_that_of_numpy_from_the_models_own_tape(model, answers, name: str) -> None:
    predicted = model(X).numpy().argmax(-1)
    classes = np.where(GIVEN < 0, predicted, GIVEN)
    values, gradients = taped(model, classes)
    answer = answers[name]
    assert answer["class_index"].tolist() == classes.tolist()
    expected = np.stack([BY_NUMPY[name](a, g) for a, g in zip(values, gradients, strict=True)])
    scale = np.abs(expected).max()
    assert answer["cam"].shape == (3, 8, 8)
    assert_allclose(answer["cam"] / scale, expected / scale, rtol=0, atol=2e-6)
    assert expected.min() < 0, "the part before the rectifier is not looked at"


@pytest.mark.parametrize("name", CAMS)
def test_saliency_is_the_cam_rectified_and_enlarged_as_tensorflow_resizes_pictures(answers, name) -> None:
    cam = answers[name]["cam"]
    resized = tf.image.resize(np.maximum(cam, 0)[..., None], (SIDE, SIDE))[..., 0]
    assert_allclose(answers[name]["saliency"], resized, rtol=0, atol=1e-5 * np.abs(cam).max())


def test_guided_grad_cam_is_the_product_of_its_parts(answers) -> None:
    both, guided, cam = (answers[name] for name in ("guided_grad_cam", "guided", "grad_cam"))
    assert_allclose(both["cam"], cam["cam"], rtol=0, atol=1e-6 * np.abs(cam["cam"]).max())
    where = tf.image.resize(np.maximum(cam["cam"], 0)[..., None], (SIDE, SIDE)).numpy()
    expected = guided["gradients"] * where
    assert np.any(expected)
    assert_allclose(both["gradients"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert_allclose(both["saliency"], np.abs(both["gradients"]).max(-1))


def test_compiled_by_xla_they_are_the_same_to_rounding(graph, answers) -> None:
    names = (*CAMS, "guided_grad_cam")
    compiled = Signatures(graph, methods=names, compile="xla", batch_sizes=(4,))
    for name in names:
        answer = compiled(f"explain_{name}", X, class_index=GIVEN)
        for output in {"cam", "gradients", "saliency", "score", "probability"} & answer.keys():
            want = answers[name][output]
            assert_allclose(answer[output], want, rtol=0, atol=1e-5 * np.abs(want).max(), err_msg=name)


def test_before_its_rectifier_grad_cam_is_hires_cam_behind_global_average_pooling() -> None:
    model = network(L.GlobalAveragePooling2D(), L.Dense(CLASSES, bias_initializer="normal", name="last"))
    graph = with_feature_layer(trace(source_of(lambda x: model(x), (SIDE, SIDE, 3))), "m")
    signatures = Signatures(graph, methods=("grad_cam", "hires_cam"))
    grad, hires = (signatures(f"explain_{name}", X)["cam"] for name in ("grad_cam", "hires_cam"))
    assert_allclose(grad, hires, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    # The smallest is quick: the others are as this one is, and larger.
    ["MobileNetV2", *(pytest.param(n, marks=pytest.mark.slow) for n in ("efficientnet-lite0", "ResNet50"))],
)
def test_the_sum_of_hires_cam_is_the_logit_less_its_bias(name: str) -> None:
    weights = None if name == "efficientnet-lite0" else "none"
    source = load_source(name, weights=weights)
    graph = with_feature_layer(trace(source), name)
    signatures = Signatures(graph, methods=("hires_cam",), batch_sizes=(1,))
    x = np.random.default_rng(4).uniform(-1, 1, (1, 224, 224, 3)).astype(np.float32)
    answer = signatures("explain_hires_cam", x)
    vectors = [v for v in source.variables if v.shape == (graph.classes,)]
    (bias,) = (vector.numpy() for vector in vectors)
    logit = float(answer["score"][0] - bias[answer["class_index"][0]])
    assert answer["cam"].sum() == pytest.approx(logit, rel=1e-4, abs=1e-4 * max(1.0, abs(logit)))


def test_a_saved_model_without_source_has_its_feature_layer_too(tmp_path) -> None:
    model = network(L.GlobalAveragePooling2D(), L.Dense(CLASSES))
    model.export(tmp_path / "saved", verbose=False)
    source = load_source(str(tmp_path / "saved"), unsafe=True)
    graph = with_feature_layer(trace(source), "m")
    assert (graph.features.name, graph.features.sizes) == ("features", (8, 8))
    answer = Signatures(graph, methods=("hires_cam",))("explain_hires_cam", X)
    bias = model.layers[-1].bias.numpy()[answer["class_index"]]
    assert_allclose(answer["cam"].sum((1, 2)), answer["score"] - bias, rtol=0, atol=1e-5)


def test_the_backward_pass_ends_at_the_feature_layer(graph) -> None:
    def transposed_convolutions(method: str) -> int:
        function = Signatures(graph, methods=(method,), lowering=False, whole=True).functions[
            f"explain_{method}"
        ]
        graph_def = function.get_concrete_function().graph.as_graph_def()
        nodes = [node for f in graph_def.library.function for node in f.node_def]
        return sum(node.op == "Conv2DBackpropInput" for node in nodes)

    # Three convolutions, of which the gradient by the image passes all and that by the features the last one.
    assert transposed_convolutions("grad_cam") == 1
    assert transposed_convolutions("gradients") == 3


def test_a_model_without_a_feature_layer_is_refused_with_a_next_step() -> None:
    dense = keras.Sequential([L.Input((8, 8, 3)), L.Flatten(), L.Dense(4)])
    graph = with_feature_layer(trace(source_of(lambda x: dense(x), (8, 8, 3))), "m")
    with pytest.raises(ExportError, match="has no feature layer") as error:
        Signatures(graph, methods=("gradients", "grad_cam"))
    assert "--cam-layer" in error.value.hint


def test_a_series_has_a_cam_along_time() -> None:
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [L.Input((40, 2)), L.Conv1D(6, 3, 2, activation="relu"), L.GlobalAveragePooling1D(), L.Dense(3)]
    )
    graph = with_feature_layer(trace(source_of(lambda x: model(x), (40, 2))), "m")
    x = np.random.default_rng(6).normal(size=(2, 40, 2)).astype(np.float32)
    answer = Signatures(graph, methods=("hires_cam",))("explain_hires_cam", x)
    assert answer["cam"].shape == (2, 19)
    assert answer["saliency"].shape == (2, 40)
    bias = model.layers[-1].bias.numpy()[answer["class_index"]]
    assert_allclose(answer["cam"].sum(1), answer["score"] - bias, rtol=0, atol=1e-5)


def test_every_method_of_the_family_declares_that_it_needs_features() -> None:
    assert all(method.needs_features for method in find_methods((*CAMS, "guided_grad_cam")))
