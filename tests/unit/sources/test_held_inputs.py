"""Models with several inputs and outputs: one of each is chosen, the other inputs are held."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.load import load_source

RNG = np.random.default_rng(3)
PHOTO = RNG.normal(size=(2, 4, 4, 1)).astype(np.float32)
KERNEL = RNG.normal(size=(16, 3)).astype(np.float32)
GAIN = np.array([1.0, -2.0, 0.5], np.float32)


def expected(photo: np.ndarray, gain: np.ndarray, step: int) -> np.ndarray:
    """scores = flatten(photo) @ kernel * gain + step, in float64."""
    return photo.reshape(len(photo), 16).astype(np.float64) @ KERNEL * gain + step


def keras_model(*, mapping: bool) -> keras.Model:
    inputs = {
        "photo": keras.Input((4, 4, 1), name="photo"),
        "gain": keras.Input((3,), name="gain"),
        "step": keras.Input((), dtype="int32", name="step"),
    }
    dense = keras.layers.Dense(3, use_bias=False, kernel_initializer=lambda *_, **__: KERNEL)
    scaled = dense(keras.layers.Flatten()(inputs["photo"])) * inputs["gain"]
    scores = scaled + keras.ops.expand_dims(keras.ops.cast(inputs["step"], "float32"), 1)
    outputs = {"scores": scores, "chosen": keras.layers.Softmax()(scores)}
    model = keras.Model(inputs if mapping else list(inputs.values()), outputs)
    dense.set_weights([KERNEL])
    return model


CHOICES = {
    "input_name": "photo",
    "held": {"gain": GAIN, "step": np.array(2, np.int32)},
    "output_name": "scores",
}


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Give the name of a function that makes the Keras model."""

    def make(*, mapping: bool = True) -> str:
        module = ModuleType("several")
        module.make = lambda: keras_model(mapping=mapping)
        monkeypatch.setitem(sys.modules, "several", module)
        return "several:make"

    return make


@pytest.mark.parametrize("mapping", [True, False], ids=["inputs by name", "inputs in order"])
def test_a_keras_model_with_the_other_inputs_held(make, mapping: bool) -> None:
    name = make(mapping=mapping)
    source = load_source(name, **CHOICES)
    assert source.input_shape == (4, 4, 1)
    np.testing.assert_allclose(source.call(tf.constant(PHOTO)), expected(PHOTO, GAIN, 2), rtol=1e-5)
    assert source.origin.endswith("input photo, with gain = an array [3], step = 2, output scores")
    # One input is left, so it need not be named; a number is for all elements.
    everywhere = {"gain": np.array(0.5, np.float32), "step": np.array(0, np.int32)}
    source = load_source(name, held=everywhere, output_name="chosen")
    logits = expected(PHOTO, np.full(3, 0.5), 0)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(source.call(tf.constant(PHOTO)), softmax, rtol=1e-5)


def test_an_input_that_is_no_image_can_be_the_one_that_is_explained(make) -> None:
    name = make()
    held = {"photo": PHOTO[0], "step": np.array(1, np.int32)}
    source = load_source(name, input_name="gain", held=held, output_name="scores")
    assert source.input_shape == (3,)
    gains = np.stack([GAIN, -GAIN])
    want = np.concatenate([expected(PHOTO[:1], gain, 1) for gain in gains])
    np.testing.assert_allclose(source.call(tf.constant(gains)), want, rtol=1e-5)


@pytest.mark.parametrize("signed", [True, False], ids=["tf.function", "Python function"])
def test_a_function_of_several_tensors(module, signed: bool) -> None:
    specs = "tf.TensorSpec([None, 4, 4, 1], name='photo'), tf.TensorSpec([None, 3], name='gain'), "
    specs += "tf.TensorSpec([], tf.int32, name='step')"
    name = module(
        f"""
        import tensorflow as tf

        {f"@tf.function(input_signature=[{specs}])" if signed else ""}
        def f(photo, gain, step):
            scores = tf.reshape(photo, [-1, 16]) @ tf.constant({KERNEL.tolist()}) * gain
            return {{"scores": scores + tf.cast(step, tf.float32), "photo": photo}}
        """
    )
    size = {} if signed else {"input_shape": (4, 4, 1)}
    choices = {key: value for key, value in CHOICES.items() if key != "output_name"}
    source = load_source(f"{name}:f", **choices, **size)
    np.testing.assert_allclose(source.call(tf.constant(PHOTO)), expected(PHOTO, GAIN, 2), rtol=1e-5)


def test_a_signature_of_several_inputs(tmp_path: Path) -> None:
    model = keras_model(mapping=True)
    model.export(tmp_path / "net", verbose=False)
    source = load_source(str(tmp_path / "net"), **CHOICES)
    np.testing.assert_allclose(source.call(tf.constant(PHOTO)), expected(PHOTO, GAIN, 2), rtol=1e-5)


@pytest.mark.parametrize(
    ("choices", "message", "hint"),
    [
        ({}, r"has 3 inputs \(photo, gain, step\); one can be explained", "--input NAME"),
        ({"input_name": "photo"}, "gain, step has no value", "--hold gain=VALUE"),
        ({"input_name": "image"}, "has no input 'image'", "it has photo, gain, step"),
        ({"held": {"image": np.array(1)}}, "has no input 'image'", "it has photo, gain, step"),
        ({**CHOICES, "input_name": "gain"}, "input gain .* is both explained and held", "hold the others"),
        ({**CHOICES, "output_name": "label"}, "has no output 'label'", "it has scores, float32 [B, 3]; cho"),
        (
            {**CHOICES, "held": {"gain": np.zeros(4, np.float32), "step": np.array(0)}},
            r"input gain of make takes \[3\] for one example; the value has shape \[4\]",
            "without the batch",
        ),
        (
            {**CHOICES, "held": {"gain": np.array(1.0), "step": np.array(0.5)}},
            r"input step of make takes int32, from -2147483648 to 2147483647; 0\.5 is none",
            None,
        ),
        ({**CHOICES, "output_name": None}, "has several outputs: scores, chosen", "--output NAME"),
    ],
)
def test_what_is_not_chosen_or_does_not_fit_is_asked_for(make, choices, message, hint) -> None:
    name = make()
    with pytest.raises(ExportError, match=message) as error:
        load_source(name, **choices)
    assert hint is None or hint in error.value.hint


def test_the_input_that_is_explained_must_be_a_float_one(make) -> None:
    name = make()
    held = {"photo": PHOTO[0], "gain": GAIN}
    with pytest.raises(ExportError, match="takes int32 input, which has no gradient"):
        load_source(name, held=held, output_name="scores")


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int64", np.array(2**53 + 1)),
        ("int64", np.array(-(2**40))),
        ("uint64", np.array(2**63, np.uint64)),
        ("float64", np.array(0.1)),
        ("float32", np.array(2**31)),
    ],
)
def test_a_held_number_is_exact_to_the_inputs_own_dtype(module, dtype: str, value: np.ndarray) -> None:
    name = module(
        f"""
        import tensorflow as tf

        @tf.function(input_signature=[
            tf.TensorSpec([None, 3], name="x"), tf.TensorSpec([], tf.{dtype}, name="step")])
        def f(x, step):
            return x + tf.cast(step == {value.item()!r}, tf.float32)
        """
    )
    source = load_source(f"{name}:f", held={"step": value})
    np.testing.assert_array_equal(source.call(tf.zeros([1, 3])), [[1, 1, 1]])


@pytest.mark.parametrize(
    ("dtype", "value", "said"),
    [
        ("int32", np.array(2**31), r"takes int32, from -2147483648 to 2147483647; 2147483648 is none"),
        ("int64", np.array(2**63, np.uint64), r"takes int64, from .* to 9223372036854775807; 9223372"),
        ("uint8", np.array(-1), r"takes uint8, from 0 to 255; -1 is none"),
        ("bool", np.array(2), r"takes bool; 2 is none"),
        ("float32", np.array(1e39), r"takes float32, from .* to 3\.40.*e\+38; 1e\+39 is none"),
        ("float16", np.array(70000), r"takes float16, from -65504\.0 to 65504\.0; 70000 is none"),
        ("float32", np.array("three"), r"takes float32; three is none"),
    ],
)
def test_a_held_value_beyond_the_inputs_dtype_is_refused_with_its_bounds(module, dtype, value, said) -> None:
    name = module(
        f"""
        import tensorflow as tf

        @tf.function(input_signature=[
            tf.TensorSpec([None, 3], name="x"), tf.TensorSpec([], tf.{dtype}, name="step")])
        def f(x, step):
            return x
        """
    )
    with pytest.raises(ExportError, match=said):
        load_source(f"{name}:f", held={"step": value})


def test_a_function_that_declares_nothing_gets_numbers_as_tensorflow_makes_them(module) -> None:
    name = module(
        """
        import tensorflow as tf

        def f(x, rate, step):
            assert (rate.dtype, step.dtype) == (tf.float32, tf.int32)
            return x * rate
        """
    )
    held = {"rate": np.array(0.1), "step": np.array(3, np.int32)}
    source = load_source(f"{name}:f", held=held, input_name="x", input_shape=(3,))
    np.testing.assert_allclose(source.call(tf.ones([1, 3])), np.full((1, 3), 0.1), rtol=1e-6)
