from __future__ import annotations

import io
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.trace import trace
from saliency_exporter.sources.load import load_source


@keras.saving.register_keras_serializable("tests")
class Registered(keras.Model):
    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.conv = keras.layers.Conv2D(3, 3)

    def call(self, x, training=None):
        return tf.reduce_mean(self.conv(x), [1, 2]) * (0.0 if training else 1.0)


class Unregistered(Registered):
    pass


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_loaded_file_predicts_what_the_saved_model_did(small_model, images, tmp_path, suffix) -> None:
    path = tmp_path / f"my{suffix}"
    small_model.save(path)
    source = load_source(str(path))
    expected = small_model.predict_on_batch(images)
    np.testing.assert_allclose(source.call(tf.constant(images)), expected, rtol=1e-5, atol=1e-7)
    assert (source.name, source.input_shape) == ("my", (8, 8, 3))
    assert source.preprocessing is None
    assert source.labels is None


def test_dropout_and_batch_normalization_are_in_inference_mode(small_model, images, tmp_path) -> None:
    norm = small_model.get_layer("norm")
    norm.set_weights([np.linspace(0.5, 2, 4), np.arange(4) - 1.0, np.arange(4) / 10, np.arange(1, 5.0)])
    small_model.save(tmp_path / "my.keras")
    given = load_source(str(tmp_path / "my.keras")).call(tf.constant(images)).numpy()

    # The same in float64 by hand: moving statistics, no dropout.
    kernel, bias = (w.astype(np.float64) for w in small_model.get_layer("conv").get_weights())
    gamma, beta, mean, variance = (w.astype(np.float64) for w in norm.get_weights())
    patches = np.lib.stride_tricks.sliding_window_view(images.astype(np.float64), (3, 3), axis=(1, 2))
    x = np.einsum("byxcij,ijcf->byxf", patches, kernel) + bias
    x = np.maximum((x - mean) / np.sqrt(variance + 1e-3) * gamma + beta, 0).reshape(2, -1)
    weights, offset = small_model.get_layer("probabilities").get_weights()
    logits = x @ weights + offset
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(given, expected, rtol=1e-4)


def test_it_can_be_traced_for_any_batch_and_lists_every_variable_that_it_reads(
    small_model, tmp_path, specification
) -> None:
    small_model.save(tmp_path / "my.keras")
    source = load_source(str(tmp_path / "my.keras"))
    traced = tf.function(source.call, autograph=False).get_concrete_function(specification(source))
    assert traced.structured_outputs.shape.as_list() == [None, 5]
    assert all(isinstance(variable, tf.Variable) for variable in source.variables)
    assert {id(v) for v in traced.variables} <= {id(v) for v in source.variables}
    assert sum(int(np.prod(v.shape)) for v in source.variables if v.dtype == tf.float32) == 112 + 16 + 725


def test_a_model_of_any_size_asks_for_the_image_size(tmp_path) -> None:
    model = keras.Sequential(
        [keras.Input((None, None, 1)), keras.layers.Conv2D(2, 3), keras.layers.GlobalMaxPooling2D()]
    )
    model.save(tmp_path / "my.keras")
    with pytest.raises(ExportError, match=r"any size \[B, any, any, 1\]") as error:
        load_source(str(tmp_path / "my.keras"))
    assert "--image-size" in error.value.hint
    assert load_source(str(tmp_path / "my.keras"), image_size=(6, 9)).input_shape == (6, 9, 1)


def test_another_image_size_than_the_models_own_is_refused(small_model, tmp_path) -> None:
    small_model.save(tmp_path / "my.keras")
    path = str(tmp_path / "my.keras")
    with pytest.raises(ExportError, match=r"\[B, 8, 8, 3\], not of --image-size 8 9"):
        load_source(path, image_size=(8, 9))
    with pytest.raises(ExportError, match="at least 1"):
        load_source(path, image_size=(0, 8))
    assert load_source(path, image_size=(8, 8)).input_shape == (8, 8, 3)


def test_a_registered_subclassed_model_is_loaded(images, tmp_path) -> None:
    model = Registered()
    expected = model(tf.constant(images), training=False)
    model.save(tmp_path / "my.keras")
    source = load_source(str(tmp_path / "my.keras"))
    np.testing.assert_allclose(source.call(tf.constant(images)), expected, rtol=1e-6)
    assert len(source.variables) == 2


def test_code_that_is_not_importable_is_named_with_the_way_out(images, tmp_path) -> None:
    model = Unregistered()
    model(tf.constant(images))
    model.save(tmp_path / "my.keras")
    with pytest.raises(ExportError, match="needs Unregistered, which is neither in the file") as error:
        load_source(str(tmp_path / "my.keras"))
    reference = error.value.hint.removeprefix("pass --import ")
    source = load_source(str(tmp_path / "my.keras"), imports=[reference])
    np.testing.assert_allclose(source.call(tf.constant(images)), model(tf.constant(images)), rtol=1e-6)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_python_code_in_the_file_is_loaded_only_when_asked_for(images, tmp_path, suffix) -> None:
    layers = [keras.Input((8, 8, 3)), keras.layers.Lambda(lambda x: x * 3), keras.layers.GlobalMaxPooling2D()]
    path = tmp_path / f"my{suffix}"
    keras.Sequential(layers).save(path)
    with pytest.raises(ExportError, match="Python code of its own") as error:
        load_source(str(path))
    assert "--unsafe" in error.value.hint
    source = load_source(str(path), unsafe=True)
    np.testing.assert_allclose(source.call(tf.constant(images)), images.max((1, 2)) * 3, rtol=1e-6)


@pytest.mark.parametrize("how", ["link", "storage"])
def test_a_file_that_points_to_other_files_is_refused(small_model, tmp_path, how) -> None:
    path, other = tmp_path / "my.h5", tmp_path / "secret"
    small_model.save(path)
    with h5py.File(other, "w") as secret:
        secret["w"] = np.zeros(4, np.float32)
    with h5py.File(path, "r+") as file:
        group = file["model_weights"]
        group["loop"] = file["/"]  # a circle is no reason to hang
        if how == "link":
            group["stolen"] = h5py.ExternalLink(str(other), "w")
        else:
            group.create_dataset("stolen", (4,), np.float32, external=[(str(other), 0, 16)])
    with pytest.raises(ExportError, match="takes /model_weights/stolen from another file") as error:
        load_source(str(path))
    assert "--unsafe" in error.value.hint


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_damaged_files_are_refused(small_model, tmp_path, suffix) -> None:
    path = tmp_path / f"my{suffix}"
    small_model.save(path)
    whole = path.read_bytes()
    for content in (b"", b"not a model", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ExportError, match=r"damaged, cut short|cannot be loaded"):
            load_source(str(path))


def test_a_flipped_byte_in_the_weights_is_refused(small_model, tmp_path) -> None:
    path = tmp_path / "my.keras"
    small_model.save(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"model.weights.h5") + 2000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ExportError, match="cannot be loaded"):
        load_source(str(path))


@keras.saving.register_keras_serializable("tests")
class Block(keras.layers.Layer):
    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.stages = [[keras.layers.Conv2D(3, 3)], [keras.layers.GlobalMaxPooling2D()]]

    def call(self, x):
        return self.stages[1][0](self.stages[0][0](x))


def weights_in(path: Path) -> h5py.File:
    with zipfile.ZipFile(path) as archive:
        return h5py.File(io.BytesIO(archive.read("model.weights.h5")))


def without(group: str, path: Path, to: Path) -> Path:
    """A copy of a .keras file that lacks a group of weights."""
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(to, "w") as part:
        for name in whole.namelist():
            content = io.BytesIO(whole.read(name))
            if name == "model.weights.h5":
                with h5py.File(content, "r+") as weights:
                    del weights[group]
            part.writestr(name, content.getvalue())
    return to


def test_a_file_without_all_weights_is_refused_and_not_filled_with_random_ones(images, tmp_path) -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), Block(name="block")])
    path = tmp_path / "saved.keras"
    model.save(path)
    if "layers/block/stages" in weights_in(path):
        assert len(load_source(str(path)).variables) == 2
        # As Keras before 3.15 writes it: without the layers in lists of lists.
        path = without("layers/block/stages", path, tmp_path / "part.keras")
    with pytest.raises(ExportError, match="some weights are not in the file"):
        load_source(str(path))


@pytest.mark.parametrize("name", ["my.weights.h5", "my.h5"])
def test_weights_without_a_model_are_refused(small_model, tmp_path, name) -> None:
    small_model.save_weights(tmp_path / "my.weights.h5")
    (tmp_path / "my.weights.h5").rename(tmp_path / name)
    with pytest.raises(ExportError, match="weights alone") as error:
        load_source(str(tmp_path / name))
    assert "load_weights" in error.value.hint


def test_a_class_of_a_package_that_is_not_installed_is_named_with_the_package(small_model, tmp_path) -> None:
    small_model.save(tmp_path / "good.keras")
    with zipfile.ZipFile(tmp_path / "good.keras") as good, zipfile.ZipFile(tmp_path / "my.keras", "w") as bad:
        for member in good.namelist():
            content = good.read(member)
            if member == "config.json":
                dense = b'"module": "keras.layers", "class_name": "Dense"'
                assert dense in content
                content = content.replace(dense, b'"module": "keras_nlp.src.head", "class_name": "Head"')
            bad.writestr(member, content)
    with pytest.raises(ExportError, match="needs Head of the Python package 'keras_nlp'") as error:
        load_source(str(tmp_path / "my.keras"))
    assert error.value.hint.startswith("pip install keras-nlp")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"there is no file .*none\.keras"):
        load_source(str(tmp_path / "none.keras"))


def _image(**options) -> keras.KerasTensor:
    return keras.Input((8, 8, 3), **options)


def _head(x: keras.KerasTensor, **options) -> keras.KerasTensor:
    return keras.layers.Dense(2, **options)(keras.layers.Flatten()(x))


def _two_inputs() -> keras.Model:
    inputs = [_image(name="photo"), _image(name="depth")]
    return keras.Model(inputs, _head(keras.layers.Add()(inputs)))


def _two_outputs() -> keras.Model:
    x = _image()
    return keras.Model(x, {"species": _head(x, name="species"), "age": _head(x, name="age")})


def _integers() -> keras.Model:
    x = _image(dtype="uint8")
    return keras.Model(x, _head(keras.layers.Rescaling(1 / 255)(x)))


def _without_head() -> keras.Model:
    x = _image()
    return keras.Model(x, keras.layers.Conv2D(2, 3)(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_two_inputs, r"2 inputs \(photo, depth\)"),
        (_two_outputs, r"several outputs: species, age$"),
        (_without_head, r"returns float32 \[B, 6, 6, 2\]"),
    ],
)
def test_a_model_of_another_form_is_refused_by_name(make, message: str, tmp_path: Path) -> None:
    make().save(tmp_path / "my.keras")
    with pytest.raises(ExportError, match=message):
        load_source(str(tmp_path / "my.keras"))


def test_a_model_of_whole_numbers_is_explained_behind_its_cast_to_floats(tmp_path: Path) -> None:
    model = _integers()
    model.save(tmp_path / "my.keras")
    graph = trace(load_source(str(tmp_path / "my.keras")))
    assert graph.input_dtype == "uint8"
    assert graph.head == "softmax"


def test_inputs_and_outputs_in_a_nest_of_one_are_unpacked(images, tmp_path: Path) -> None:
    x = _image(name="photo")
    model = keras.Model({"photo": x}, [_head(x)])
    model.save(tmp_path / "my.keras")
    source = load_source(str(tmp_path / "my.keras"))
    expected = model.predict_on_batch({"photo": images})
    np.testing.assert_allclose(source.call(tf.constant(images)), expected, rtol=1e-6)


def test_a_half_precision_input_is_cast(images, tmp_path: Path) -> None:
    x = _image(dtype="float16")
    keras.Model(x, keras.layers.GlobalAveragePooling2D(dtype="float16")(x)).save(tmp_path / "my.keras")
    source = load_source(str(tmp_path / "my.keras"))
    # Half precision has 11 bits: 64 values of magnitude 1 are each rounded by 2⁻¹² at most.
    np.testing.assert_allclose(source.call(tf.constant(images)), images.mean((1, 2)), atol=2**-10)
