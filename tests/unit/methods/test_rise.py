"""RISE against theory, and against a loop over its masks on the original model."""

from __future__ import annotations

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from callables import source_of
from mean_error import contrast, relative_error
from rounding import ROUNDING, ULP, assert_equal_to_rounding

from saliency_exporter.contract.checks import bounds_of, default_of
from saliency_exporter.errors import ExportError
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods.noise import random_bits
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.methods.rise import METHOD, masks

SHAPE = (13, 10, 3)


def written_out(size: int, cells: int, shift: int) -> np.ndarray:
    """What each pixel takes of each cell, [size, cells]: enlarged to a cell more, and cut out."""
    cell = math.ceil(size / cells)
    whole = (cells + 1) * cell
    centres = (np.arange(whole) + 0.5) * cells / whole - 0.5
    columns = [np.interp(centres, np.arange(cells), column) for column in np.eye(cells)]
    return np.stack(columns, axis=1)[shift : shift + size]


def mask_of(seed: int, sample: int, keep: float, sizes: tuple[int, ...], grid: int = 7) -> np.ndarray:
    """A mask from its bits, float64 [*sizes]."""
    cells = [min(grid, size) for size in sizes]
    count = math.prod(cells)
    pairs = math.ceil((count + len(cells)) / 2)
    bits = random_bits(tf.constant([seed]), tf.constant(int(sample)), pairs).numpy().ravel()
    kept = (bits[:count].view(np.uint32) >> 8) / 2**24 < np.float32(keep)
    mask = kept.reshape(cells).astype(np.float64)
    for axis, (size, along) in enumerate(zip(sizes, cells, strict=True)):
        weights = written_out(size, along, int(bits[count + axis]) % math.ceil(size / along))
        mask = np.moveaxis(np.tensordot(weights, mask, (1, axis)), 0, axis)
    return mask


@pytest.mark.parametrize(
    ("sizes", "grid", "compiled"),
    [
        ((13, 10), 7, True),
        ((13, 10), 7, False),
        ((224, 160), 7, False),
        ((50,), 7, False),
        ((6, 7, 9), 3, False),
        ((3, 1), 7, False),
    ],
)
def test_a_mask_is_its_bits_enlarged_and_shifted(sizes, grid, compiled):
    keys = [(5, 0, 0.5), (-4, 7, 0.9), (2**31 - 1, 1999, 0.1), (0, 3, 1.0)]
    seeds, samples, keeps = (tf.constant(part) for part in zip(*keys, strict=True))
    made = tf.function(lambda *drawn: masks(*drawn, sizes, grid), jit_compile=compiled)
    expected = np.stack([mask_of(*key, sizes, grid) for key in keys])
    np.testing.assert_allclose(made(seeds, samples, keeps), expected, atol=8 * ULP)


def drawn_masks(n: int, keep: float, sizes: tuple[int, ...], grid: int) -> np.ndarray:
    """The masks 0 to n − 1 of seed 0, float64 [n, *sizes]."""
    draw = tf.function(lambda samples: masks(0 * samples, samples, tf.fill([n], keep), sizes, grid))
    return draw(tf.range(n)).numpy().astype(np.float64)


def test_masks_are_zero_and_one_at_their_cells_and_all_shifts_occur():
    got = drawn_masks(600, 0.5, (56,), 7)
    assert got.min() == 0
    assert got.max() == 1
    # Cells are 8 pixels here, and shifts 0 to 7: each has a ramp of its own between two cells that differ.
    ramps = {tuple(np.round(row[np.flatnonzero((row > 0) & (row < 1))][:4], 4)) for row in got}
    assert len(ramps) > 7


def test_the_mean_mask_is_keep_at_every_pixel_also_at_the_edges():
    n, keep = 4000, 0.3
    got = drawn_masks(n, keep, (10, 8), 4)
    # A mask's variance is at most that of one cell.
    assert np.abs(got.mean(axis=0) - keep).max() < 5 * np.sqrt(keep * (1 - keep) / n)
    for size, cells in ((10, 4), (13, 7), (224, 7)):
        for shift in range(math.ceil(size / cells)):
            np.testing.assert_allclose(written_out(size, cells, shift).sum(axis=1), 1)


def covariances(size: int, cells: int) -> np.ndarray:
    """Σ over cells of what two pixels take of them, the mean over shifts, [size, size]."""
    shifts = range(math.ceil(size / cells))
    return np.mean([w @ w.T for w in (written_out(size, cells, shift) for shift in shifts)], axis=0)


def test_the_map_of_a_linear_model_converges_to_theory(signatures_of):
    """It is Σ_i w_i x_i E[M_i M] / keep, and E[M_i M_j] = keep² + keep (1 − keep) Σ over cells of w_i w_j."""
    shape, keep, n = (8, 8, 1), 0.4, 4000
    # The first class is told by the upper half being brighter than the lower one.
    weights = np.random.default_rng(0).uniform(0, 0.04, (64, 2)).astype(np.float32)
    weights[32:] *= -1

    def linear(x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(x, (-1, 64)) @ weights

    built = signatures_of(linear, shape, methods=("rise(grid=4)",), score="output")
    image = np.random.default_rng(1).uniform(0, 1, (1, *shape)).astype(np.float32)
    got = built("explain_rise", image, class_index=0, num_masks=n, keep=keep, seed=3)
    # Pixels share a cell only where they share it along both axes.
    along = covariances(8, 4)
    shared = np.einsum("ab,cd->acbd", along, along).reshape(64, 64)
    parts = (weights[:, 0] * image.ravel()).astype(np.float64)
    spread = keep * (1 - keep) * shared
    expected = (keep**2 + spread) @ parts / keep
    # A mask is at most 1: a sample's variance is at most E[f²] / keep².
    standard_error = np.sqrt(((keep * parts.sum()) ** 2 + parts @ spread @ parts) / n) / keep
    error = np.abs(got["saliency"][0].ravel() - expected)
    assert error.max() < 4 * standard_error
    assert np.ptp(expected) > 20 * standard_error
    # The error that is stated is of the same size as the one that there is, of 64 correlated pixels, without
    # the level of either map.
    centred = got["saliency"][0].ravel() - expected
    centred, truth = (values - values.mean() for values in (centred, expected))
    stated = got["relative_error"][0]
    assert 0.5 < np.linalg.norm(centred) / np.linalg.norm(truth) / stated < 2
    assert stated < 0.3


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(3)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(6, 3, activation="swish", bias_initializer="normal"),
            layers.Conv2D(5, 3, strides=2, activation="gelu"),
            layers.Flatten(),
            layers.Dense(4, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return 2 * np.random.default_rng(0).normal(size=(5, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def networks(signatures_of, network):
    return {
        "none": signatures_of(network, SHAPE, methods=("rise",)),
        "xla": signatures_of(network, SHAPE, methods=("rise",), compile="xla", batch_sizes=(4,)),
    }


# In slices of 4 and 1, or of 4 alone; an image alone takes several steps of the loop, the last one not full.
PARAMETERS = {
    "class_index": np.array([-1, 0, 1, 2, 3]),
    "num_masks": np.array([3, 7, 1, 12, 25]),
    "keep": np.array([0.5, 0.3, 0.9, 1.0, 0.6]),
    "seed": np.array([0, 5, 2**31 - 1, 1, -7]),
    "first_sample": np.array([0, 3, 0, 2**30, 1]),
}


@pytest.mark.parametrize("how", ["none", "xla"])
def test_rise_equals_a_loop_over_the_original_model(networks, network, images, how):
    got = networks[how]("explain_rise", images, **PARAMETERS)
    clean = network(images).numpy()
    chosen = np.array([clean[0].argmax(), 0, 1, 2, 3])
    np.testing.assert_array_equal(got["class_index"], chosen)
    np.testing.assert_allclose(got["probability"], clean[np.arange(5), chosen], rtol=1e-5)
    for example, c in enumerate(chosen):
        n, keep, seed = (PARAMETERS[name][example] for name in ("num_masks", "keep", "seed"))
        first = PARAMETERS["first_sample"][example]
        drawn = np.stack([mask_of(int(seed), first + i, keep, SHAPE[:2]) for i in range(n)])
        masked = images[example] * drawn[..., np.newaxis].astype(np.float32)
        importance = network(masked).numpy()[:, c, np.newaxis, np.newaxis].astype(np.float64) * drawn / keep
        mean = importance.mean(axis=0)
        np.testing.assert_allclose(got["saliency"][example], mean, atol=100 * ULP * importance.max())
        if n == 1:
            assert np.isnan(got["relative_error"][example])
            continue
        spread = np.sqrt(contrast(importance).var(axis=0, ddof=1).sum() / n)
        np.testing.assert_allclose(
            got["standard_error"][example], spread, rtol=2e-4, atol=1e-5 * importance.max()
        )
        # With everything kept, masks differ by rounding alone.
        error = 0 if keep == 1 else relative_error(contrast(importance))
        np.testing.assert_allclose(got["relative_error"][example], error, rtol=2e-4)


def test_with_everything_kept_the_map_is_the_probability_and_has_no_error(networks, images):
    got = networks["none"]("explain_rise", images, num_masks=12, keep=1.0)
    expected = np.broadcast_to(got["probability"][:, np.newaxis, np.newaxis], got["saliency"].shape)
    np.testing.assert_allclose(got["saliency"], expected, rtol=1e-5)
    np.testing.assert_allclose(got["relative_error"], 0, atol=1e-6)


def test_an_answer_is_what_it_is_alone(networks, images):
    together = {how: built("explain_rise", images, **PARAMETERS) for how, built in networks.items()}
    for row in (1, 4):
        one = {name: value[row : row + 1] for name, value in PARAMETERS.items()}
        alone = networks["none"]("explain_rise", images[row : row + 1], **one)
        for how, name in itertools.product(together, alone):
            got = together[how][name][row : row + 1]
            assert_equal_to_rounding(got, alone[name], ROUNDING, name=f"{how} {name}")


@pytest.mark.parametrize(("shape", "sizes"), [((41, 2), (41,)), ((6, 5, 7, 1), (6, 5, 7))])
def test_images_of_any_number_of_axes_are_masked(signatures_of, shape, sizes):
    weights = np.random.default_rng(0).normal(size=(math.prod(shape), 3)).astype(np.float32)

    def scores(x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(x, (-1, math.prod(shape))) @ weights

    built = signatures_of(scores, shape, methods=("rise(grid=3)",))
    image = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32) / 10
    got = built("explain_rise", image, class_index=1, num_masks=5, seed=2)
    drawn = np.stack([mask_of(2, i, 0.5, sizes, 3) for i in range(5)])
    logits = (image * drawn[..., np.newaxis]).reshape(5, -1) @ weights.astype(np.float64)
    p = np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1)
    expected = np.mean(p.reshape(-1, *[1] * len(sizes)) * drawn / 0.5, axis=0)
    np.testing.assert_allclose(got["saliency"][0], expected, atol=100 * ULP)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("keep", 0.0, r"keep is 0; it must be in \[0.01, 1\]"),
        ("keep", 1.5, r"keep is 1.5; it must be in \[0.01, 1\]"),
        ("keep", np.nan, r"keep is nan; it must be in \[0.01, 1\]"),
        ("num_masks", 0, r"num_masks is 0; it must be in \[1, 4000\]"),
        ("num_masks", 4001, r"num_masks is 4001; it must be in \[1, 4000\]"),
    ],
)
def test_what_is_out_of_bounds_is_refused(whole, images, name, value, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        whole("explain_rise", images[:1], **{"num_masks": 1, name: value})


@pytest.fixture(scope="module")
def whole(signatures_of, network):
    return signatures_of(network, SHAPE, methods=("rise",), whole=True)


def test_there_may_be_four_times_as_many_masks_as_samples_and_the_default_is_within_the_bound(signatures_of):
    (num_masks,) = (parameter for parameter in METHOD.parameters if parameter.name == "num_masks")
    assert (bounds_of(num_masks, 1000, tf.uint8).high, default_of(num_masks, 1000)) == (4000, 2000)
    assert (bounds_of(num_masks, 3, tf.float32).high, default_of(num_masks, 3)) == (12, 12)

    def scores(x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(x, axis=[1, 2])

    built = signatures_of(scores, SHAPE, methods=("rise", "smooth"), max_samples=3, whole=True)
    image = np.ones((1, *SHAPE))
    # What nobody names is the default, and the default is accepted.
    for signature, name, value in (("explain_rise", "num_masks", 12), ("explain_smooth", "num_samples", 3)):
        default, named = built(signature, image), built(signature, image, **{name: value})
        np.testing.assert_array_equal(default["saliency"], named["saliency"])


def test_a_grid_that_is_finer_than_the_image_is_refused_with_the_sizes(signatures_of):
    def scores(x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(x, axis=[1, 2])

    with pytest.raises(ExportError, match=r"rise\(grid=11\) does not fit into .* model, 13 × 10$") as error:
        signatures_of(scores, SHAPE, methods=("rise(grid=11)",))
    assert error.value.hint.startswith("the largest is rise(grid=10);")
    signatures_of(scores, SHAPE, methods=("rise(grid=10)",))


def test_the_manifest_says_how_many_cells_there_are():
    graph = trace(source_of(lambda x: tf.reduce_sum(x, axis=[1, 2]), (5, 20, 2)), score="auto")
    assert METHOD.facts(graph) == {"grid": [5, 7]}
    (chosen,) = find_methods(["rise(grid=4)"])
    assert chosen.facts(graph) == {"grid": [4, 4]}


def test_features_without_places_are_refused(signatures_of):
    with pytest.raises(ExportError, match="model, 6 values, has no axis beside its channels"):
        signatures_of(lambda x: x @ tf.ones((6, 2)), (6,), methods=("rise",))
