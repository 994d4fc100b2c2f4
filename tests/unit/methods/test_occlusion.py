"""Occlusion against theory, and against a loop over patches on the original model."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from callables import source_of
from rounding import ROUNDING, ULP, assert_equal_to_rounding

from saliency_exporter.contract.build import build_signatures
from saliency_exporter.contract.settings import Settings
from saliency_exporter.errors import ExportError
from saliency_exporter.graph.channels import with_channels_found
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.occlusion import METHOD, Patches, by_size
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.sources.preprocessing import builtin

PICTURE = (11, 14, 3)


def additive(shape: tuple[int, ...]) -> tuple[Callable, Callable]:
    """A model whose scores are sums over single values, in TensorFlow, and the terms in NumPy."""
    a, b = np.random.default_rng(1).normal(size=(2, *shape, 4)).astype(np.float32)

    def scores(x: tf.Tensor) -> tf.Tensor:
        x = x[..., tf.newaxis]
        return tf.reduce_sum(a * x + b * x**3, axis=list(range(1, len(shape) + 1))) + 5.0

    def terms(x: np.ndarray, c: int) -> np.ndarray:
        x = x.astype(np.float64)
        return a[..., c].astype(np.float64) * x + b[..., c].astype(np.float64) * x**3

    return scores, terms


def images_of(shape: tuple[int, ...], count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def axes_of(image: np.ndarray) -> tuple[int, ...]:
    return tuple(range(1, image.ndim))


@pytest.mark.parametrize(
    ("shape", "method"),
    [
        (PICTURE, "occlusion"),
        (PICTURE, "occlusion(patch=9, stride=3)"),
        ((41, 2), "occlusion(stride=2)"),
        ((8, 7, 1, 1), "occlusion"),
    ],
)
def test_the_shares_of_an_additive_model_add_up_to_the_whole_drop(signatures_of, shape, method):
    scores, terms = additive(shape)
    built = signatures_of(scores, shape, methods=(method,))
    images, baselines = images_of(shape), np.array([0.0, 0.5, -1.0], np.float32)
    got = built("explain_occlusion", images, class_index=[3, 0, 1], baseline=baselines)
    for image, share, baseline, c in zip(images, got["attributions"], baselines, [3, 0, 1], strict=True):
        own = terms(image, c) - terms(np.full(shape, baseline), c)
        # A drop is a difference of two sums of these magnitudes, and there are up to 17 × 17 of them.
        magnitude = np.abs(terms(image, c)).sum() + np.abs(terms(np.full(shape, baseline), c)).sum()
        assert share.sum(dtype=np.float64) == pytest.approx(own.sum(), abs=300 * ULP * magnitude)
        assert abs(own.sum()) > 3000 * ULP * magnitude  # the bound would not hold without the shares
    np.testing.assert_allclose(got["saliency"], np.abs(got["attributions"].sum(-1)), rtol=1e-5, atol=1e-6)


def test_without_channels_every_value_is_a_pixel():
    scores, terms = additive((9, 9))

    def flat(x: tf.Tensor) -> tf.Tensor:  # a square that is flattened: there are no channels in it
        return scores(tf.reshape(tf.reshape(x, (-1, 81)), (-1, 9, 9)))

    source = source_of(flat, (9, 9))
    graph = with_channels_found(trace(source, score="auto"), source)
    assert graph.channels == "none"
    settings = Settings(methods=find_methods(["occlusion(patch=1)"]), compile="none", batch_sizes=(1,))
    built = build_signatures(Forward(graph), builtin("none"), settings, "model")
    image = images_of((9, 9), 1)
    got = {name: value.numpy() for name, value in built["explain_occlusion"](tf.constant(image)).items()}
    c = int(got["class_index"][0])
    own = terms(image[0], c) - terms(np.zeros((9, 9)), c)
    np.testing.assert_allclose(got["attributions"][0], own, atol=300 * ULP * np.abs(own).sum())
    np.testing.assert_allclose(got["saliency"], np.abs(got["attributions"]), rtol=1e-6)


def test_a_pixel_that_is_a_patch_gets_its_own_drop_and_its_channels_share_it(signatures_of):
    scores, terms = additive(PICTURE)
    built = signatures_of(scores, PICTURE, methods=("occlusion(patch=1)",))
    images = images_of(PICTURE)
    got = built("explain_occlusion", images, class_index=2, baseline=0.25)["attributions"]
    own = terms(images, 2) - terms(np.full(PICTURE, 0.25), 2)
    bound = 20 * ULP * np.abs(terms(images, 2)).sum((1, 2, 3)).max()
    np.testing.assert_allclose(got.sum(-1), own.sum(-1), atol=bound)
    np.testing.assert_array_equal(got, np.broadcast_to(got[..., :1], got.shape))


def test_where_pixels_do_not_differ_each_gets_its_own_drop(signatures_of):
    def mean(x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(x, axis=[1, 2]) * tf.constant([[1.0, 2.0, 4.0]])

    built = signatures_of(mean, PICTURE, methods=("occlusion(patch=6, stride=2)",))
    got = built("explain_occlusion", np.full((1, *PICTURE), 3.0), class_index=1, baseline=1.0)
    # 2 · (3 − 1) of the second channel, shared by three; also at the edges, where patches are cut.
    np.testing.assert_allclose(got["attributions"], 4 / 3, rtol=1e-4)


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(3)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(PICTURE),
            layers.Conv2D(6, 3, activation="swish", bias_initializer="normal"),
            layers.Conv2D(5, 3, strides=2, activation="gelu"),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )


@pytest.fixture(scope="module")
def networks(signatures_of, network):
    method = "occlusion(patch=4, stride=2)"
    return {
        "none": signatures_of(network, PICTURE, methods=(method,)),
        "xla": signatures_of(network, PICTURE, methods=(method,), compile="xla", batch_sizes=(4,)),
    }


# In slices of 4 and 1, or of 4 alone; each example with a class and a baseline of its own.
PARAMETERS = {"class_index": np.array([-1, 0, 1, 2, 3]), "baseline": np.array([0, 1, -0.5, 0.25, 2])}


def written_out(
    model: Callable, image: np.ndarray, c: int, baseline: float, patches: list[tuple[int, int]]
) -> np.ndarray:
    """The definition: the shares of one image's pixels, [*sizes], from the model's scores."""
    sizes = image.shape[:-1]
    starts = [
        range(stride - patch, size, stride) for size, (patch, stride) in zip(sizes, patches, strict=True)
    ]
    places = [
        tuple(slice(max(start, 0), start + patch) for start, (patch, _) in zip(corner, patches, strict=True))
        for corner in itertools.product(*starts)
    ]
    occluded = np.stack([image] * (1 + len(places)))
    for copy, place in zip(occluded[1:], places, strict=True):
        copy[place] = baseline
    clean, *hidden = np.asarray(model(occluded))[:, c].astype(np.float64)
    total, times = np.zeros(sizes), np.zeros(sizes)
    for place, score in zip(places, hidden, strict=True):
        total[place] += (clean - score) / total[place].size
        times[place] += 1
    assert len(np.unique(times)) == 1  # every pixel is hidden equally often
    return total / times


@pytest.mark.parametrize("how", ["none", "xla"])
def test_occlusion_equals_a_loop_over_the_original_model(networks, network, how):
    images = images_of(PICTURE, 5)
    got = networks[how]("explain_occlusion", images, **PARAMETERS)
    scores = network(images).numpy()
    chosen = [scores[0].argmax(), 0, 1, 2, 3]
    np.testing.assert_array_equal(got["class_index"], chosen)
    np.testing.assert_allclose(got["score"], scores[np.arange(5), chosen], rtol=1e-5, atol=1e-6)
    for example in range(5):
        baseline, c = float(PARAMETERS["baseline"][example]), int(chosen[example])
        expected = written_out(network, images[example], c, baseline, [(4, 2), (4, 2)])
        # A drop is a difference of scores, and a share a mean of quarters or less of four drops.
        bound = ROUNDING * ULP * np.abs(scores).max()
        np.testing.assert_allclose(got["attributions"][example].sum(-1), expected, atol=bound)
        assert np.abs(expected).max() > 1000 * bound


def test_an_answer_is_what_it_is_alone(networks):
    images = images_of(PICTURE, 5)
    together = {how: built("explain_occlusion", images, **PARAMETERS) for how, built in networks.items()}
    for row in (1, 4):
        one = {name: value[row : row + 1] for name, value in PARAMETERS.items()}
        alone = networks["none"]("explain_occlusion", images[row : row + 1], **one)
        for how, name in itertools.product(together, alone):
            got, bound = together[how][name][row : row + 1], ROUNDING
            if name in ("attributions", "saliency"):
                # Drops are differences of scores, and as far from each other as these.
                bound *= max(1.0, float(np.abs(alone["score"][0]) / np.linalg.norm(alone[name])))
            assert_equal_to_rounding(got, alone[name], bound, name=f"{how} {name}")


def test_the_baseline_is_a_gray_level_of_the_images_and_not_of_the_model_input():
    scores, terms = additive(PICTURE)
    graph = trace(source_of(scores, PICTURE), score="auto")
    settings = Settings(methods=find_methods(["occlusion(patch=1)"]), compile="none", batch_sizes=(2,))
    built = build_signatures(Forward(graph), builtin("tf"), settings, "model")["explain_occlusion"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, *PICTURE)).astype(np.uint8)
    got = built(tf.constant(pixels), class_index=tf.constant(1), baseline=tf.constant([255.0, 51.0]))
    x = pixels / 127.5 - 1
    for example, level in enumerate([1.0, -0.6]):
        own = terms(x[example], 1) - terms(np.full(PICTURE, level), 1)
        bound = 30 * ULP * np.abs(terms(x[example], 1)).sum()
        np.testing.assert_allclose(got["attributions"][example].numpy().sum(-1), own.sum(-1), atol=bound)


def test_a_baseline_that_is_not_finite_is_refused(signatures_of):
    built = signatures_of(additive(PICTURE)[0], PICTURE, methods=("occlusion",), whole=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="it must be a finite number"):
        built("explain_occlusion", images_of(PICTURE), baseline=[0.0, np.nan, 0.0])


@pytest.mark.parametrize(
    ("sizes", "patches"),
    [
        ((224, 224), [(28, 14), (28, 14)]),
        ((300, 150), [(38, 19), (20, 10)]),
        ((1000,), [(126, 63)]),
        ((64, 64, 64), [(22, 11)] * 3),
        ((5, 4, 3, 2), [(4, 2), (4, 2), (2, 1), (2, 1)]),
        ((1, 17), [(1, 1), (4, 2)]),
    ],
)
def test_patches_follow_the_images_size(sizes, patches):
    assert by_size(sizes) == [Patches(*along) for along in patches]


def graph_of(shape: tuple[int, ...]):
    return trace(source_of(additive(shape)[0], shape), score="auto")


def test_the_manifest_says_how_many_passes_a_call_takes():
    assert METHOD.facts(graph_of((32, 48, 3))) == {"patch": [4, 6], "stride": [2, 3], "passes": 17 * 17}
    (chosen,) = find_methods(["occlusion(patch=8)"])
    assert chosen.facts(graph_of((32, 48, 3))) == {"patch": [8, 8], "stride": [4, 4], "passes": 9 * 13}


def test_a_stride_that_does_not_divide_the_patch_is_refused_with_one_that_does():
    with pytest.raises(
        ExportError, match=r"occlusion\(patch=15, stride=4\): the stride, 4, does not"
    ) as error:
        find_methods(["occlusion(patch=15, stride=4)"])
    assert error.value.hint == "for example occlusion(patch=15, stride=3)"
    (method,) = find_methods(["occlusion(patch=15, stride=3)"])
    assert method.name == "occlusion"


def test_a_patch_that_is_larger_than_the_image_is_refused_with_the_sizes(signatures_of):
    scores = additive(PICTURE)[0]
    with pytest.raises(
        ExportError, match=r"occlusion\(patch=12\) does not fit into .* model, 11 × 14$"
    ) as error:
        signatures_of(scores, PICTURE, methods=("occlusion(patch=12)",))
    assert error.value.hint.startswith("the largest is occlusion(patch=11);")
    signatures_of(scores, PICTURE, methods=("occlusion(patch=11)",))


def test_features_without_places_are_refused(signatures_of):
    with pytest.raises(ExportError, match="model, 6 values, has no axis beside its channels") as error:
        signatures_of(additive((6,))[0], (6,), methods=("occlusion",))
    assert "--channels none" in error.value.hint
