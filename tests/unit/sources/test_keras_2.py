"""Files of Keras 2. What is right is what tf-keras's own model in memory computes."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from built_signatures import signatures_of

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.keras_2 import holds_python_code, other_meaning
from saliency_exporter.sources.keras_config import FileConfig, parts, read_config
from saliency_exporter.sources.load import load_source
from saliency_exporter.sources.python_object import import_module

tf_keras = pytest.importorskip("tf_keras")
layers = tf_keras.layers

INSTALL = f"pip install 'tf-keras=={'.'.join(tf.__version__.split('.')[:2])}.*'"


@pytest.fixture
def model():
    return tf_keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(5, activation="softmax"),
        ]
    )


@pytest.fixture
def without_tf_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf_keras", None)


def random_model(*stack: Any, shape: tuple[int, ...], head: bool = True) -> Any:
    """A model with weights that are not Keras's zeros and ones, and scores that do not saturate."""
    end = [layers.Flatten(), layers.Dense(3)] if head else []
    model = tf_keras.Sequential([layers.Input(shape), *stack, *end])
    random = np.random.default_rng(0)
    model.set_weights([np.abs(random.normal(0, 0.5, weight.shape)) for weight in model.get_weights()])
    return model


def examples(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)


def rewrite(path: Path, change: Callable[[dict[str, Any]], None], **attributes: str | None) -> Path:
    """Changes the serialized layers and the attributes of an HDF5 file to what an older Keras wrote."""

    def walk(config: Any) -> None:
        if isinstance(config, dict):
            if "class_name" in config:
                change(config)
            for value in config.values():
                walk(value)
        elif isinstance(config, list):
            for value in config:
                walk(value)

    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        walk(config)
        file.attrs["model_config"] = json.dumps(config)
        for group in (file, file["model_weights"]):
            for name, value in attributes.items():
                if value is None:
                    del group.attrs[name]
                else:
                    group.attrs[name] = value
    return path


def as_keras_2_3(path: Path, *, listed: bool = False) -> Path:
    """A Sequential file without its InputLayer: its first layer has the shape.

    Keras before 2.2.3 wrote such a model as a list of layers.
    """

    def change(config: dict[str, Any]) -> None:
        if config["class_name"] == "Sequential":
            shape = config["config"]["layers"].pop(0)["config"]["batch_input_shape"]
            config["config"]["layers"][0]["config"]["batch_input_shape"] = shape
            config["config"].pop("build_input_shape", None)
            config["config"] = config["config"]["layers"] if listed else config["config"]
        for key in ("module", "registered_name", "build_config"):
            config.pop(key, None)

    return rewrite(path, change, keras_version="2.3.1")


def is_right(source: Any, model: Any) -> None:
    """Holds scores and gradients of every class to those of the model in memory."""
    assert source.input_shape == model.input_shape[1:]
    x = tf.constant(examples(source.input_shape))
    with tf.GradientTape() as tape:
        tape.watch(x)
        scores = model(x, training=False)
    np.testing.assert_allclose(source.call(x), scores, rtol=1e-5, atol=1e-6)
    with tf.GradientTape() as tape_of_source:
        tape_of_source.watch(x)
        given = source.call(x)
    expected = tape.gradient(scores, x)
    np.testing.assert_allclose(tape_of_source.gradient(given, x), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("suffix", [".keras", ".h5", ""])
def test_what_keras_2_saved_predicts_what_the_model_did(
    model, images, specification, tmp_path: Path, suffix
) -> None:
    path = tmp_path / f"old{suffix}"
    model.save(path)
    source = load_source(str(path))
    np.testing.assert_allclose(source.call(tf.constant(images)), model.predict_on_batch(images), rtol=1e-5)
    traced = tf.function(source.call, autograph=False).get_concrete_function(specification(source))
    assert traced.structured_outputs.shape.as_list() == [None, 5]
    assert {id(v) for v in traced.variables} <= {id(v) for v in source.variables}


def test_a_model_in_memory_is_taken(module, images) -> None:
    name = module(
        """
        import tf_keras
        def make():
            x = tf_keras.Input((8, 8, 3))
            return tf_keras.Model(x, tf_keras.layers.GlobalMaxPooling2D()(x))
        """
    )
    source = load_source(f"{name}:make")
    np.testing.assert_allclose(source.call(tf.constant(images)), images.max((1, 2)), rtol=1e-6)
    assert source.input_shape == (8, 8, 3)


HARD_SIGMOID = {
    "convolution": (lambda: layers.Conv2D(4, 3, activation="hard_sigmoid"), (8, 8, 3)),
    "activation": (lambda: layers.Activation("hard_sigmoid"), (7,)),
    "einsum": (lambda: layers.EinsumDense("abc,cd->abd", (None, 5), activation="hard_sigmoid"), (6, 4)),
    "gates": (lambda: layers.LSTM(5, recurrent_activation="hard_sigmoid"), (6, 4)),
    "gates in a wrapper": (
        lambda: layers.Bidirectional(layers.GRU(5, recurrent_activation="hard_sigmoid")),
        (6, 4),
    ),
    "gates by default": (lambda: layers.ConvLSTM2D(2, 3), (3, 6, 6, 2)),
    "nested": (lambda: tf_keras.Sequential([layers.Dense(4, activation="hard_sigmoid")]), (7,)),
}


@pytest.mark.parametrize(
    ("case", "suffix"),
    [*((case, ".h5") for case in HARD_SIGMOID), ("convolution", ".keras"), ("gates", ".keras")],
)
def test_hard_sigmoid_is_that_of_keras_2(case, suffix, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape = HARD_SIGMOID[case]
    model = random_model(make(), shape=shape)
    path = tmp_path / f"old{suffix}"
    model.save(path)
    is_right(load_source(str(path)), model)
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(
        ExportError, match=r"layer '\w+' \(\w+\) has (recurrent_)?activation 'hard_sig"
    ) as error:
        load_source(str(path))
    assert error.value.hint == INSTALL


def test_that_keras_3_reads_another_function_is_said(tmp_path: Path) -> None:
    path = tmp_path / "old.h5"
    random_model(layers.Dense(5, activation="hard_sigmoid"), shape=(7,)).save(path)
    (note,) = load_source(str(path)).notes
    assert "Keras 3 reads the file otherwise: layer 'dense" in note


def test_a_difference_that_no_rule_knows_is_said_from_random_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saliency_exporter.sources.keras_file.other_meaning", lambda config: None)
    path = tmp_path / "old.h5"
    random_model(layers.Dense(5, activation="hard_sigmoid"), shape=(7,)).save(path)
    (note,) = load_source(str(path)).notes
    assert "on random input its scores are" in note
    random_model(layers.Dense(5, activation="sigmoid"), shape=(7,)).save(path)
    assert load_source(str(path)).notes == ()


@pytest.mark.parametrize("activation", ["hard_sigmoid", "swish", "relu6"])
def test_a_guided_map_of_keras_2_has_its_activations_rule(activation: str, tmp_path: Path) -> None:
    """Springenberg et al. 2014: behind every rectifier, positive signals alone; hard_sigmoid is a gate."""
    model = random_model(
        layers.Dense(6, activation=activation), layers.Dense(5, activation="relu"), shape=(7,)
    )
    path = tmp_path / "old.h5"
    model.save(path)
    source = load_source(str(path))
    given = signatures_of(source.call, source.input_shape, batch_sizes=(2,), methods=("gradients", "guided"))
    x = examples((7,))
    first, second, head = (layer for layer in model.layers if layer.weights)
    with tf.GradientTape() as tape:
        before = tf.Variable(x @ first.kernel + first.bias)
        after = first.activation(before)
    slope = tape.gradient(after, before).numpy()
    hidden = np.maximum(after @ second.kernel + second.bias, 0)
    signal = head.kernel.numpy()[:, (hidden @ head.kernel + head.bias).numpy().argmax(1)].T * (hidden > 0)
    plain = (signal @ second.kernel.numpy().T * slope) @ first.kernel.numpy().T
    guided = np.maximum(signal, 0) @ second.kernel.numpy().T
    guided = (guided if activation == "hard_sigmoid" else np.maximum(guided, 0)) * slope
    guided = guided @ first.kernel.numpy().T
    for method, expected in (("gradients", plain), ("guided", guided)):
        np.testing.assert_allclose(given(f"explain_{method}", x)["gradients"], expected, rtol=1e-4, atol=1e-6)


SEQUENTIAL = {
    "reshape": (lambda: [layers.Reshape((8, 6, 1)), layers.Conv2D(3, 3, activation="relu")], (8, 6)),
    "image": (lambda: [layers.Conv2D(3, 3, activation="relu")], (8, 8, 3)),
    "series": (lambda: [layers.Conv1D(3, 3, activation="relu")], (8, 3)),
    "features": (lambda: [layers.Dense(5, activation="relu")], (7,)),
    "normalization": (lambda: [layers.BatchNormalization(), layers.Dense(5)], (8, 3)),
    "recurrent": (lambda: [layers.LSTM(5)], (8, 3)),
    "dropout": (lambda: [layers.Dropout(0.2), layers.Dense(5)], (7,)),
}


@pytest.mark.parametrize(("case", "listed"), [*((case, False) for case in SEQUENTIAL), ("image", True)])
def test_a_sequential_file_without_input_layer_has_no_axis_too_many(
    case, listed, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, shape = SEQUENTIAL[case]
    model = random_model(*make(), shape=shape)
    path = tmp_path / "old.h5"
    model.save(path)
    is_right(load_source(str(as_keras_2_3(path, listed=listed))), model)
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(ExportError, match=r"Keras 2\.3\.1: layer .* begins a Seq.* axis too many") as error:
        load_source(str(path))
    assert error.value.hint == INSTALL


def test_a_softmax_over_several_axes_is_over_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(layers.Softmax(axis=[1, 2]), shape=(4, 4, 3))
    path = tmp_path / "old.h5"
    model.save(path)
    is_right(load_source(str(path)), model)
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(ExportError, match="over several axes"):
        load_source(str(path))


def test_kernels_of_theano_are_turned_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theano convolves, and TensorFlow correlates: Keras 2 turned the kernels of such a file at loading."""
    model = random_model(layers.Conv2D(3, (3, 2), use_bias=False), shape=(6, 6, 2), head=False)
    model.add(layers.GlobalMaxPooling2D())
    path = tmp_path / "old.h5"
    model.save(path)
    rewrite(path, lambda config: None, keras_version="2.0.8", backend="theano")
    x, kernel = examples((6, 6, 2)), model.get_weights()[0]
    expected = np.full((2, 4, 5, 3), 0.0)
    for row, column in np.ndindex(4, 5):
        for i, j in np.ndindex(3, 2):  # y[p] = Σ x[p + size − 1 − i] k[i]
            expected[:, row, column] += x[:, row + 2 - i, column + 1 - j] @ kernel[i, j]
    np.testing.assert_allclose(load_source(str(path)).call(tf.constant(x)), expected.max((1, 2)), rtol=1e-5)
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(ExportError, match="Keras on Theano"):
        load_source(str(path))


def test_a_gru_of_before_reset_after_resets_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(layers.Bidirectional(layers.GRU(5, reset_after=False, use_bias=False)), shape=(6, 4))
    path = tmp_path / "old.h5"
    model.save(path)

    def change(config: dict[str, Any]) -> None:
        if config["class_name"] == "GRU":
            del config["config"]["reset_after"], config["config"]["time_major"]

    rewrite(path, change, keras_version="2.0.8")
    is_right(load_source(str(path)), model)
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(ExportError, match="resets its state before the product"):
        load_source(str(path))


def test_an_lstm_of_cudnn_is_computed_without_it(tmp_path: Path) -> None:
    """cuDNN keeps W of a gate as [units, inputs], R as [units, units], and two biases that add."""
    model = random_model(layers.LSTM(5), shape=(6, 4))
    path = tmp_path / "old.h5"
    model.save(path)

    def change(config: dict[str, Any]) -> None:
        if config["class_name"] == "LSTM":
            config["class_name"] = "CuDNNLSTM"
            kept = ("name", "units", "return_sequences", "return_state", "go_backwards", "stateful")
            config["config"] = {key: config["config"][key] for key in kept}

    rewrite(path, change, keras_version="2.2.4")
    with h5py.File(path, "r+") as file:
        found: dict[str, h5py.Dataset] = {}
        file["model_weights"].visititems(lambda name, item: found.update({name: item}))
        for name, data in found.items():
            if "lstm_cell" in name and isinstance(data, h5py.Dataset):
                gates = np.split(data[...], 4, -1)
                if "bias" in name:
                    bias, (group, _, own) = data[...], name.rpartition("/")
                    del file["model_weights"][name]
                    found[group][own] = np.concatenate([bias / 4, bias * 3 / 4])
                else:
                    data[...] = np.concatenate([gate.T.reshape(gate.shape) for gate in gates], -1)
    is_right(load_source(str(path)), model)


def test_layers_that_the_newer_format_leaves_out_are_not_filled_with_random_weights(
    module, tmp_path: Path
) -> None:
    """tf-keras does not save layers in lists of lists, and does not say so."""
    name = module(
        """
        import tf_keras
        class Block(tf_keras.layers.Layer):
            def __init__(self, **options):
                super().__init__(**options)
                self.stages = [[tf_keras.layers.Dense(3)], [tf_keras.layers.Dense(2)]]
            def call(self, x):
                return self.stages[1][0](self.stages[0][0](x))
        """
    )
    model = tf_keras.Sequential([layers.Input((7,)), import_module(name).Block()])
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"old{suffix}")
    with pytest.raises(ExportError, match="some weights are not in the file: "):
        load_source(str(tmp_path / "old.keras"), imports=[f"{name}:Block"])
    is_right(load_source(str(tmp_path / "old.h5"), imports=[f"{name}:Block"]), model)


def test_a_slope_that_was_saved_as_an_array_is_a_number(tmp_path: Path) -> None:
    model = random_model(layers.LeakyReLU(0.2), shape=(7,))
    path = tmp_path / "old.h5"
    model.save(path)

    def change(config: dict[str, Any]) -> None:
        if config["class_name"] == "LeakyReLU":
            config["config"]["alpha"] = {"type": "ndarray", "value": config["config"]["alpha"]}

    rewrite(path, change, keras_version="2.0.8")
    is_right(load_source(str(path)), model)


def test_a_file_without_a_version_is_taken_for_an_old_one(tmp_path: Path) -> None:
    model = random_model(layers.Dense(5, activation="hard_sigmoid"), shape=(7,))
    path = tmp_path / "old.h5"
    model.save(path)
    is_right(load_source(str(rewrite(path, lambda config: None, keras_version=None))), model)


def test_hdf5_under_the_name_of_the_newer_format_is_read(tmp_path: Path) -> None:
    """Before 2.12, Keras wrote .keras files as HDF5."""
    model = random_model(layers.Dense(5, activation="hard_sigmoid"), shape=(7,))
    model.save(tmp_path / "old.h5")
    os.replace(tmp_path / "old.h5", tmp_path / "old.keras")
    is_right(load_source(str(tmp_path / "old.keras")), model)


def test_a_model_of_teachable_machine_is_read(tmp_path: Path) -> None:
    """Its shape: a Sequential of Sequentials, the first of which holds MobileNet up to its pooling."""
    x = layers.Input((16, 16, 3))
    y = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    y = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(4, 3, strides=2, use_bias=False)(y)))
    y = layers.ReLU(6.0)(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(y)))
    features = tf_keras.Sequential([tf_keras.Model(x, y), layers.GlobalAveragePooling2D()])
    head = tf_keras.Sequential([layers.Dense(6, activation="relu"), layers.Dense(2, use_bias=False)])
    model = tf_keras.Sequential([features, head])
    model.build((None, 16, 16, 3))
    random = np.random.default_rng(0)
    model.set_weights([np.abs(random.normal(0, 0.5, weight.shape)) for weight in model.get_weights()])
    path = tmp_path / "keras_model.h5"
    model.save(path)
    assert "groups" in str(read_config(path).model)  # which Keras 3 refuses
    is_right(load_source(str(path)), model)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_python_code_in_the_file_is_loaded_only_when_asked_for(images, tmp_path: Path, suffix) -> None:
    path = tmp_path / f"old{suffix}"
    tf_keras.Sequential(
        [layers.Input((8, 8, 3)), layers.Lambda(lambda x: x * 3), layers.GlobalMaxPooling2D()]
    ).save(path)
    with pytest.raises(ExportError, match="Python code of its own") as error:
        load_source(str(path))
    assert "--unsafe" in error.value.hint
    source = load_source(str(path), unsafe=True)
    np.testing.assert_allclose(source.call(tf.constant(images)), images.max((1, 2)) * 3, rtol=1e-6)


def test_python_code_in_the_list_of_an_old_sequential_file_is_not_overlooked(tmp_path: Path) -> None:
    path = tmp_path / "old.h5"
    tf_keras.Sequential([layers.Input((7,)), layers.Lambda(lambda x: x * 3), layers.Dense(2)]).save(path)

    def change(config: dict[str, Any]) -> None:
        if config["class_name"] == "Sequential":
            config["config"] = config["config"]["layers"]

    rewrite(path, change, keras_version="2.0.6")
    with pytest.raises(ExportError, match="Python code of its own"):
        load_source(str(path))


def test_a_module_that_the_file_names_is_not_imported(module, tmp_path: Path) -> None:
    """tf-keras imports whatever a .keras file names, whatever its safe_mode says."""
    name = module("raise SystemExit('imported')\nclass Layer: ...")
    tf_keras.Sequential([layers.Input((7,)), layers.Dense(2, name="out")]).save(tmp_path / "good.keras")
    with (
        zipfile.ZipFile(tmp_path / "good.keras") as good,
        zipfile.ZipFile(tmp_path / "bad.keras", "w") as bad,
    ):
        for member in good.namelist():
            content = good.read(member)
            if member == "config.json":
                dense = b'"module": "keras.layers", "class_name": "Dense"'
                assert dense in content
                content = content.replace(dense, f'"module": "{name}", "class_name": "Layer"'.encode())
            bad.writestr(member, content)
    with pytest.raises(ExportError, match=r"needs Layer \(layer 'out' \(Layer\)\)") as error:
        load_source(str(tmp_path / "bad.keras"))
    assert f"--import {name}:Layer" in error.value.hint
    assert name not in sys.modules


@pytest.mark.parametrize(
    "symbol", ["io.write_file", "raw_ops.WriteFile", "numpy_function", "io.gfile.remove", "print"]
)
def test_a_function_that_reaches_beyond_the_model_is_not_called(symbol: str, tmp_path: Path) -> None:
    x = layers.Input((7,))
    path, victim = tmp_path / "old.h5", tmp_path / "victim"
    tf_keras.Model(x, layers.Dense(2)(tf.math.add(x, 1.0))).save(path)
    victim.write_text("kept")

    def change(config: dict[str, Any]) -> None:
        if config["class_name"] == "TFOpLambda":
            config["config"]["function"] = symbol
            config["inbound_nodes"] = [["_CONSTANT_VALUE", -1, str(victim), {"contents": "lost"}]]

    rewrite(path, change)
    with pytest.raises(ExportError, match=f"calls tf.{symbol} .*beyond the model") as error:
        load_source(str(path))
    assert "--unsafe" in error.value.hint
    assert victim.read_text() == "kept"


@pytest.mark.parametrize(
    ("op", "refused"), [("Relu", False), ("WriteFile", True), ("ReadFile", True), (None, True)]
)
def test_an_op_of_an_older_file_is_run_if_it_computes_alone(
    op: str | None, refused: bool, tmp_path: Path
) -> None:
    """TensorFlow 2.0 to 2.3 saved functions of tensors as nodes of a graph."""
    x = layers.Input((7,))
    model = tf_keras.Model(x, layers.Dense(2)(tf.nn.relu(x)))
    path = tmp_path / "old.h5"
    model.save(path)

    def change(config: dict[str, Any]) -> None:
        if config["class_name"] == "TFOpLambda":
            node = {"name": "Relu", "op": op, "input": ["x"], "attr": {"T": {"type": "DT_FLOAT"}}}
            config["class_name"] = "TensorFlowOpLayer"
            config["config"] = {"name": "Relu", "trainable": True, "dtype": "float32", "constants": {}}
            config["config"]["node_def"] = node if op else "bytes"
            config["inbound_nodes"] = [[[*config["inbound_nodes"][0][:3], {}]]]

    rewrite(path, change, keras_version="2.4.0")
    if refused:
        with pytest.raises(ExportError, match=r"calls the op .*, which may reach beyond the model"):
            load_source(str(path))
    else:
        is_right(load_source(str(path)), model)


def test_a_lambda_of_which_the_file_has_the_name_alone_is_refused(tmp_path: Path) -> None:
    """As Keras up to 2.11 wrote it."""
    path = tmp_path / "old.h5"
    random_model(layers.Dense(5, name="hidden"), shape=(7,)).save(path)

    def change(config: dict[str, Any]) -> None:
        if config["class_name"] == "Dense":
            config["config"]["activation"] = "<lambda>"

    with pytest.raises(ExportError, match=r"layer 'hidden' \(Dense\) has a lambda for its activation"):
        load_source(str(rewrite(path, change)))


@pytest.mark.parametrize(
    "entry",
    [
        {"class_name": "Lambda", "config": {"function": ["4wAA", None, None], "function_type": "lambda"}},
        {"class_name": "lambda_layer.Lambda", "module": "keras.src.layers.core", "config": {}},
        {"class_name": "X", "registered_name": "Lambda", "module": "keras.src.layers.core", "config": {}},
        {"class_name": "__lambda__", "config": {"value": "4wAA"}},
        {
            "class_name": "Lambda",
            "config": {"function": "relu", "function_type": "function", "mask_type": "lambda"},
        },
    ],
)
def test_python_code_is_seen_under_every_name(entry: dict[str, Any]) -> None:
    (part, *_) = parts([entry])
    assert holds_python_code(part)


def test_a_function_by_its_name_is_no_python_code() -> None:
    config = {"function": "relu", "function_type": "function", "output_shape_type": "raw"}
    (part, *_) = parts([{"class_name": "Lambda", "config": config}])
    assert not holds_python_code(part)


def test_functions_of_tensors_are_called(tmp_path: Path) -> None:
    x = layers.Input((4, 4, 3))
    y = tf.nn.relu(tf.cast(x, tf.float32) / 2.0 - 0.1)[:, ::2]
    y = tf.concat([y, tf.image.flip_left_right(y)], -1) * tf.expand_dims(tf.reduce_mean(y, -1), -1)
    y = tf.compat.v1.reshape(tf_keras.backend.square(y) + tf.linalg.norm(y), [-1, 48])
    model = tf_keras.Model(x, layers.Dense(3)(y))
    for suffix in (".h5", ".keras"):
        model.save(tmp_path / f"old{suffix}")
        is_right(load_source(str(tmp_path / f"old{suffix}")), model)


def test_a_file_that_points_to_other_files_is_refused(model, tmp_path: Path) -> None:
    model.save(tmp_path / "old.h5")
    with h5py.File(tmp_path / "other", "w") as other:
        other["w"] = np.zeros(4, np.float32)
    with h5py.File(tmp_path / "old.h5", "r+") as file:
        file["model_weights/stolen"] = h5py.ExternalLink(str(tmp_path / "other"), "w")
    shutil.copy(tmp_path / "old.h5", tmp_path / "old.keras")
    for name in ("old.h5", "old.keras"):
        with pytest.raises(ExportError, match="takes /model_weights/stolen from another file"):
            load_source(str(tmp_path / name))


def test_without_tf_keras_what_means_the_same_is_loaded_by_keras_3(tmp_path: Path, without_tf_keras) -> None:
    model = random_model(layers.Conv2D(4, 3, activation="swish"), shape=(8, 8, 3))
    path = tmp_path / "old.h5"
    model.save(path)
    is_right(load_source(str(path)), model)


def test_without_tf_keras_what_keras_3_cannot_load_is_refused_with_the_package_to_install(
    model, tmp_path: Path, without_tf_keras
) -> None:
    model.save(tmp_path / "old.keras")
    with pytest.raises(ExportError, match=r"written by Keras 2\..*and Keras 3 cannot load it: ") as error:
        load_source(str(tmp_path / "old.keras"))
    # tf-keras depends on the TensorFlow of its own minor version, and would replace the installed one.
    assert error.value.hint == INSTALL


def test_without_tf_keras_python_code_is_still_asked_about(tmp_path: Path, without_tf_keras) -> None:
    path = tmp_path / "old.h5"
    tf_keras.Sequential([layers.Input((7,)), layers.Lambda(lambda x: x * 3), layers.Dense(2)]).save(path)
    with pytest.raises(ExportError, match="Python code of its own") as error:
        load_source(str(path))
    assert "--unsafe" in error.value.hint


@pytest.mark.parametrize("version", ["1", "2.0.5", "2.4.0", "2.20.1"])
def test_a_name_that_is_no_activation_is_no_difference(version: str) -> None:
    layer = {"class_name": "Dense", "config": {"name": "hard_sigmoid", "activation": "relu"}}
    assert other_meaning(FileConfig(version, "tensorflow", layer)) is None
    assert FileConfig(version, None, layer).keras_2
    assert not FileConfig("3.4.1", None, layer).keras_2


def _everyday() -> dict[str, tuple[Any, tuple[int, ...]]]:
    """A layer of Keras 2 of each kind that Keras 3 loads without a word, and the shape of its input."""
    picture, series = (9, 8, 4), (12, 3)
    names = "softplus selu elu gelu swish relu6 exponential mish softsign tanh sigmoid leaky_relu log_softmax"
    found = {name: (layers.Conv2D(4, 3, activation=name), picture) for name in names.split()}
    given = {"mean": [1.0, 2.0, 3.0, 4.0], "variance": [1.0, 2.0, 3.0, 4.0]}
    more = [
        layers.ReLU(max_value=1.0, negative_slope=0.1, threshold=0.2),
        layers.LeakyReLU(),
        layers.PReLU(shared_axes=[1, 2]),
        layers.ELU(alpha=0.5),
        layers.Softmax(axis=1),
        *(layers.UpSampling2D(2, interpolation=kind) for kind in ("nearest", "bilinear", "bicubic", "area")),
        layers.AveragePooling2D(3, 2, padding="same"),
        layers.SeparableConv2D(3, 3, depth_multiplier=2, padding="same"),
        layers.Conv2D(4, 3, groups=2),
        layers.LayerNormalization(),
        layers.BatchNormalization(axis=1),
        layers.GroupNormalization(2),
        layers.UnitNormalization(),
        layers.Normalization(**given),
        layers.Normalization(invert=True, **given),
        *(layers.Resizing(5, 7, interpolation=kind) for kind in ("bilinear", "nearest", "bicubic", "area")),
        layers.Resizing(5, 7, crop_to_aspect_ratio=True),
        layers.CenterCrop(4, 5),
        layers.ZeroPadding2D(((1, 0), (2, 1))),
        layers.GlobalAveragePooling2D(keepdims=True),
        layers.EinsumDense("abcd,de->abce", output_shape=(None, None, 5), bias_axes="e"),
    ]
    found |= {f"{type(layer).__name__} {n}": (layer, picture) for n, layer in enumerate(more)}
    found["causal"] = (layers.Conv1D(3, 3, padding="causal", dilation_rate=2), series)
    found["at each step"] = (layers.TimeDistributed(layers.Dense(3)), series)
    return found


@pytest.mark.slow
def test_no_other_layer_that_keras_3_loads_without_a_word_means_something_else(tmp_path: Path) -> None:
    """That activations named hard_sigmoid do is known; a layer that does would show here."""
    generator = np.random.default_rng(4)
    for name, (layer, shape) in _everyday().items():
        model = tf_keras.Sequential([tf_keras.Input(shape), layer])
        model.set_weights([generator.uniform(0.2, 1.0, w.shape) for w in model.get_weights()])
        path = tmp_path / "model.h5"
        model.save(path)
        x = generator.normal(size=(2, *shape)).astype(np.float32)
        try:
            loaded = keras.models.load_model(path, compile=False)
        except (TypeError, ValueError):
            continue  # said by Keras 3
        want = model(x, training=False).numpy()
        np.testing.assert_allclose(loaded(x, training=False), want, rtol=1e-4, atol=1e-5, err_msg=name)
