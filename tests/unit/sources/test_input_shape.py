from __future__ import annotations

import itertools
import re
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.choices import Choices
from saliency_exporter.sources.input_shape import fixed_shape
from saliency_exporter.sources.load import load_source

FLATTENED = """
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec({shape})])
    def f(x):
        return tf.reshape(x, [tf.shape(x)[0], -1])[:, :5]
"""


@pytest.mark.parametrize("shape", [(7,), (9, 4), (6, 5, 2), (4, 6, 5, 2)], ids=["2", "3", "4", "5"])
def test_input_of_rank_2_to_5_is_taken_as_it_is_declared(module, shape: tuple[int, ...]) -> None:
    name = module(FLATTENED.format(shape=[None, *shape]))
    source = load_source(f"{name}:f")
    assert source.input_shape == shape
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    np.testing.assert_array_equal(source.call(tf.constant(x)), x.reshape(2, -1)[:, :5])


@pytest.mark.parametrize(
    ("declared", "choice", "shape"),
    [
        ([None, None, 80], {"input_shape": (128, 80)}, (128, 80)),
        ([None, None, None, 1], {"input_shape": (32, 24, 1)}, (32, 24, 1)),
        ([None, None, None, 1], {"image_size": (32, 24)}, (32, 24, 1)),
        ([None, None, None, None], {"image_size": (32, 24)}, (32, 24, 3)),
        ([None, None, None, 8, 2], {"input_shape": (4, 16, 8, 2)}, (4, 16, 8, 2)),
        ([None, 16], {"input_shape": (16,)}, (16,)),
    ],
)
def test_sizes_that_the_model_leaves_open_are_given(module, declared, choice, shape) -> None:
    name = module(FLATTENED.format(shape=declared))
    assert load_source(f"{name}:f", **choice).input_shape == shape


@pytest.mark.parametrize(
    ("declared", "choice", "message", "hint"),
    [
        ([None, None, 80], {}, r"input of any size \[B, any, 80\]", "--input-shape N,80"),
        ([None, None, 80], {"image_size": (4, 4)}, r"\[B, any, 80\]; --image-size is for images", "input-sh"),
        ([None, None, 80], {"input_shape": (128,)}, "--input-shape 128 has 1 sizes", "give 2 sizes"),
        ([None, None, 80], {"input_shape": (128, 81)}, "not of --input-shape 128,81", "--input-shape 128,80"),
        ([None, None, 80], {"input_shape": (7, 128, 80)}, "has 3 sizes", "--input-shape 128,80"),
        ([None, None, 80], {"input_shape": (0, 80)}, "--input-shape 0,80: every size", "--input-shape 80"),
        ([None, None, 80], {"input_shape": (-1, -1)}, "--input-shape -1,-1: every size", "such as"),
        ([None, 12, 80], {"image_size": (12, 80)}, "--image-size is for images", "leave --image-size out"),
        ([None, 12, 80], {"input_shape": (12, 81)}, "not of --input-shape 12,81", "leave --input-shape out"),
        ([None, None, None, 3], {"input_shape": (3, 24, 32)}, "not of", "--input-shape 24,32,3"),
        ([None, None, None, 3], {"input_shape": (24, 32)}, "has 2 sizes", "--input-shape 24,32,3"),
        ([None, 24, None, 3], {"image_size": (32, 48)}, "not of --image-size 32 48", "--image-size 24 48"),
        ([None, 24, None, 3], {}, r"images of any size \[B, 24, any, 3\]", "--image-size 24 W"),
        ([None, 8, 8, 3], {"image_size": (0, 8)}, "--image-size 0 8: both", "--image-size 224 224"),
        ([None, 8, 8, 3], {"image_size": (8, 8), "input_shape": (8, 8, 3)}, "exclude one another", "one of"),
        ([None], {}, r"shape \[B\]; inputs of 1 to 4 axes", "module:callable"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(module, declared, choice, message, hint) -> None:
    name = module(FLATTENED.format(shape=declared))
    with pytest.raises(ExportError, match=message) as error:
        load_source(f"{name}:f", **choice)
    assert hint is None or hint in error.value.hint


def test_a_function_that_declares_nothing_is_told_both_options(module) -> None:
    name = module("def f(x):\n    return x[:, 0, 0]\n")
    with pytest.raises(ExportError, match="images of any size") as error:
        load_source(f"{name}:f")
    assert "--image-size H W" in error.value.hint
    assert "--input-shape N,…" in error.value.hint


SIZES = (None, 3, 24)
DECLARED = [None, *(shape for axes in (1, 2, 3, 4) for shape in itertools.product(SIZES, repeat=axes))]
ASKED = [
    {},
    *({"image_size": size} for size in [(24, 24), (24, 32), (3, 24)]),
    *({"input_shape": s} for axes in (1, 2, 3, 4) for s in itertools.product((3, 24, 32), repeat=axes)),
]


@pytest.mark.parametrize("channels", ["auto", "first", "last", "none"])
def test_every_hint_about_sizes_is_one_that_works(channels: str) -> None:
    refused = 0
    for declared, asked in itertools.product(DECLARED, ASKED):
        choices = Choices(**asked, channels=channels)
        hints: list[str] = []
        try:
            fixed_shape("m", declared, choices)
        except ExportError as error:
            hints = (error.hint or "none").split(". If the channels are last after all, ")
        refused += bool(hints)
        for hint in hints:
            fixed_shape("m", declared, followed(hint, choices))
    assert refused > 500


def followed(hint: str, choices: Choices) -> Choices:
    """The choices after a hint, N, H and W being 17."""
    changed = choices
    if match := re.search(r"--channels (first|last)", hint):
        changed = replace(changed, channels=match[1])
    number = {"N": 17, "H": 17, "W": 17}
    if match := re.search(r"--image-size ([0-9H]+) ([0-9W]+)", hint):
        size = tuple(number.get(part) or int(part) for part in match.groups())
        return replace(changed, image_size=size, input_shape=None)
    if match := re.search(r"--input-shape ([0-9N,]+)", hint):
        sizes = tuple(number.get(part) or int(part) for part in match[1].split(","))
        return replace(changed, image_size=None, input_shape=sizes)
    assert hint in ("leave --input-shape out", "leave --image-size out"), hint
    return replace(changed, image_size=None, input_shape=None)


@pytest.mark.parametrize(
    ("declared", "choice", "shape"),
    [
        ((3, None, None), {"image_size": (24, 32)}, (3, 24, 32)),
        ((3, None, None), {"input_shape": (3, 24, 32)}, (3, 24, 32)),
        ((None, None, None), {"image_size": (24, 32)}, (3, 24, 32)),
        ((1, 24, 32), {}, (1, 24, 32)),
        (None, {"image_size": (24, 32)}, (3, 24, 32)),
        (None, {"input_shape": (5, 24, 32)}, (5, 24, 32)),
    ],
)
def test_sizes_of_channels_first_are_as_the_model_takes_them(declared, choice, shape) -> None:
    assert fixed_shape("m", declared, Choices(**choice, channels="first")) == shape


@pytest.mark.parametrize("declared", [(3, None, None), (1, 24, None), (4, None, None, None)])
@pytest.mark.parametrize("choice", [{}, {"image_size": (24, 32)}])
def test_open_sizes_behind_a_number_of_channels_are_those_of_channels_first(declared, choice) -> None:
    with pytest.raises(ExportError, match="looks like images with their channels first") as error:
        fixed_shape("m", declared, Choices(**choice))
    assert "--channels first and --i" in error.value.hint


def test_a_picture_without_channels_has_an_image_size() -> None:
    assert fixed_shape("m", (None, None), Choices(image_size=(24, 32), channels="none")) == (24, 32)


@pytest.mark.parametrize("shape", [(3, 6, 8), (5, 12), (2, 4, 6, 8)])
def test_channels_first_are_handed_to_the_model_in_its_own_order(module, shape) -> None:
    name = module(FLATTENED.format(shape=[None, *shape]))
    source = load_source(f"{name}:f", channels="first")
    channels, *sizes = shape
    assert source.input_shape == (*sizes, channels)
    assert source.origin.endswith(", channels first")
    own = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    given = tf.constant(np.moveaxis(own, 1, -1))
    np.testing.assert_array_equal(source.call(given), own.reshape(2, -1)[:, :5])


def test_the_size_of_an_application_may_be_its_input_shape() -> None:
    source = load_source("MobileNetV2", weights="none", input_shape=(32, 48, 3))
    assert source.input_shape == (32, 48, 3)


def test_a_series_model_of_keras_is_a_model_like_others(tmp_path) -> None:
    x = keras.Input((20, 3))
    y = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling1D()(keras.layers.Conv1D(5, 3)(x)))
    model = keras.Model(x, y)
    model.save(tmp_path / "series.keras")
    series = np.random.default_rng(1).normal(size=(2, 20, 3)).astype(np.float32)
    source = load_source(str(tmp_path / "series.keras"))
    assert source.input_shape == (20, 3)
    np.testing.assert_allclose(source.call(tf.constant(series)), model(series), rtol=1e-6)
