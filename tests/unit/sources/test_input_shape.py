from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.errors import ExportError
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
        ([None, None, 80], {"input_shape": (128, 81)}, r"not of --input-shape 128,81", "leave --input-shape"),
        ([None, None, 80], {"input_shape": (0, 80)}, "--input-shape 0,80: every size", None),
        ([None, 8, 8, 3], {"image_size": (8, 8), "input_shape": (8, 8, 3)}, "exclude one another", "one of"),
        ([None], {}, r"shape \[B\]; inputs of 1 to 4 axes", "module:callable"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(module, declared, choice, message, hint) -> None:
    name = module(FLATTENED.format(shape=declared))
    with pytest.raises(ExportError, match=message) as error:
        load_source(f"{name}:f", **choice)
    assert hint is None or hint in error.value.hint


def test_a_series_model_of_keras_is_a_model_like_others(tmp_path) -> None:
    x = keras.Input((20, 3))
    y = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling1D()(keras.layers.Conv1D(5, 3)(x)))
    model = keras.Model(x, y)
    model.save(tmp_path / "series.keras")
    series = np.random.default_rng(1).normal(size=(2, 20, 3)).astype(np.float32)
    source = load_source(str(tmp_path / "series.keras"))
    assert source.input_shape == (20, 3)
    np.testing.assert_allclose(source.call(tf.constant(series)), model(series), rtol=1e-6)
