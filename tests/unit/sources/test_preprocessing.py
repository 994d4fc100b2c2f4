from __future__ import annotations

import inspect
import json
from types import SimpleNamespace

import keras
import msgspec
import numpy as np
import pytest
import tensorflow as tf
from covering import covering

from saliency_exporter.errors import ExportError
from saliency_exporter.sources import keras_application
from saliency_exporter.sources.preprocessing import Preprocessing, builtin, from_steps
from saliency_exporter.sources.preprocessing_choice import resolve_preprocessing
from saliency_exporter.version.describe import describe_preprocessing

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 17, 13, 3), dtype=np.uint8)
# The compiler may turn x / c into x · (1/c): one unit in the last place more at magnitude 2 (2.4e-7),
# divided by at least 0.224 where a standard deviation follows.
COMPILED_TOLERANCE = 2 * 2.4e-7 / 0.224

FAMILIES = [
    name
    for name, member in inspect.getmembers(keras.applications, inspect.ismodule)
    if hasattr(member, "preprocess_input") and name not in ("imagenet_utils", "resnet50")
]


def model(channels: int = 3, preprocessing: Preprocessing | None = None) -> SimpleNamespace:
    return SimpleNamespace(name="my_model", input_shape=(17, 13, channels), preprocessing=preprocessing)


def apply(preprocessing: Preprocessing, pixels: np.ndarray = PIXELS) -> np.ndarray:
    return preprocessing.function(tf.constant(pixels, tf.float32)).numpy()


@pytest.mark.parametrize("mode", ["tf", "caffe", "torch"])
def test_a_mode_equals_keras_bit_for_bit(mode: str) -> None:
    expected = keras.applications.imagenet_utils.preprocess_input(PIXELS.astype(np.float32), mode=mode)
    np.testing.assert_array_equal(apply(builtin(mode)), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_equals_each_familys_own_function_bit_for_bit(family: str) -> None:
    original = getattr(keras.applications, family).preprocess_input
    expected = original(PIXELS.astype(np.float32))
    np.testing.assert_array_equal(apply(builtin(keras_application.FAMILIES[family])), expected)


def test_every_application_belongs_to_a_known_family() -> None:
    names = keras_application.names()
    assert {"VGG16", "ResNet50", "MobileNetV3Small", "ConvNeXtTiny", "NASNetMobile", "Xception"} <= set(names)
    assert (
        {keras_application.family(name) for name in names} == set(keras_application.FAMILIES) == set(FAMILIES)
    )


@pytest.mark.parametrize(
    ("mode", "compiled"), covering(["none", "pixels", "unit", "tf", "caffe", "torch"], [False, True])
)
def test_a_mode_can_be_traced_and_compiled(mode: str, compiled: bool) -> None:
    function = tf.function(
        builtin(mode).function,
        input_signature=[tf.TensorSpec([None, 17, 13, 3], tf.float32)],
        jit_compile=compiled,
    )
    np.testing.assert_allclose(
        function(tf.constant(PIXELS, tf.float32)), apply(builtin(mode)), rtol=0, atol=COMPILED_TOLERANCE
    )


@pytest.mark.parametrize("name", ["none", "pixels", "unit", "tf", "caffe", "torch"])
def test_the_manifest_is_enough_to_redo_it_in_numpy(name: str) -> None:
    manifest = json.loads(msgspec.json.encode(describe_preprocessing(builtin(name))))
    x = PIXELS.astype(np.float32)
    for step in manifest["steps"]:
        ((operation, value),) = step.items()
        if operation == "reverse_channels":
            x = x[..., ::-1]
        elif operation == "divide":
            x = x / np.asarray(value, np.float32)
        else:
            assert operation == "subtract"
            x = x - np.asarray(value, np.float32)
    np.testing.assert_array_equal(apply(builtin(name)), x)


def test_unit_is_0_to_1_in_any_number_of_channels() -> None:
    np.testing.assert_allclose(apply(builtin("unit")), PIXELS / 255, rtol=1e-6)
    assert resolve_preprocessing("unit", model(channels=1)).name == "unit"


def test_scale_and_shift_is_what_it_says() -> None:
    shifted = from_steps("lite", (("subtract", 127.0), ("divide", 128.0)))
    np.testing.assert_array_equal(apply(shifted), (PIXELS.astype(np.float64) - 127) / 128)


def test_none_means_float_model_input_and_every_other_uint8_pixels() -> None:
    assert builtin("none").image_dtype == "float32"
    assert {builtin(name).image_dtype for name in ("pixels", "unit", "tf", "caffe", "torch")} == {"uint8"}


def test_auto_is_what_the_source_knows() -> None:
    known = builtin("caffe")
    assert resolve_preprocessing("auto", model(preprocessing=known)) is known


def test_auto_asks_where_nothing_is_known() -> None:
    with pytest.raises(ExportError, match="not known which preprocessing my_model needs") as error:
        resolve_preprocessing("auto", model())
    assert "--preprocessing" in error.value.hint


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ExportError, match=r"no preprocessing 'cafe'; did you mean caffe\?"):
        resolve_preprocessing("cafe", model())


@pytest.mark.parametrize("name", ["caffe", "torch"])
def test_colour_modes_are_refused_for_one_channel(name: str) -> None:
    with pytest.raises(ExportError, match=r"is for 3 channels .* takes 1"):
        resolve_preprocessing(name, model(channels=1))
    assert resolve_preprocessing("tf", model(channels=1)).name == "tf"


def test_a_users_function_is_baked_in(module) -> None:
    name = module(
        """
        import tensorflow as tf
        def scale(x):
            return tf.square(x / 255.0)
        """
    )
    preprocessing = resolve_preprocessing(f"{name}:scale", model())
    np.testing.assert_allclose(apply(preprocessing), (PIXELS / 255.0) ** 2, rtol=1e-6)
    assert describe_preprocessing(preprocessing).callable == f"{name}:scale"
    assert preprocessing.image_dtype == "uint8"


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "xla"])
def test_a_users_function_may_have_an_if_on_a_tensor(module, compiled: bool) -> None:
    name = module(
        """
        import tensorflow as tf
        def scale(x):
            if tf.reduce_max(x) > 1.0:
                return x / 255.0
            return x
        """
    )
    preprocessing = resolve_preprocessing(f"{name}:scale", model())
    # As an export traces it: without AutoGraph.
    function = tf.function(
        preprocessing.function,
        input_signature=[tf.TensorSpec([None, 17, 13, 3], tf.float32)],
        autograph=False,
        jit_compile=compiled,
    )
    x = PIXELS.astype(np.float32)
    np.testing.assert_allclose(function(x), x / np.float32(255), rtol=1e-6)
    np.testing.assert_array_equal(function(x / 512), x / 512)


def test_keras_own_functions_can_be_named() -> None:
    preprocessing = resolve_preprocessing("keras.applications.vgg16:preprocess_input", model())
    np.testing.assert_array_equal(apply(preprocessing), apply(builtin("caffe")))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return x.numpy() / 255", "failed on float32 images"),
        ("return tf.image.resize(x, (4, 4))", "must keep the shape"),
        ("return tf.cast(x, tf.int32)", "must return one float tensor"),
        ("return x, x", "must return one float tensor"),
        ("return x * SCALE", "uses variables"),
    ],
)
def test_a_users_function_that_cannot_be_baked_in_is_refused(module, body: str, message: str) -> None:
    name = module(f"import tensorflow as tf\nSCALE = tf.Variable(2.0)\ndef prepare(x):\n    {body}\n")
    with pytest.raises(ExportError, match=message):
        resolve_preprocessing(f"{name}:prepare", model())


def test_a_preprocessing_that_is_not_a_function_is_refused(module) -> None:
    name = module("prepare = 3")
    with pytest.raises(ExportError, match="is a int, not a function"):
        resolve_preprocessing(f"{name}:prepare", model())
