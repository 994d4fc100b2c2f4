"""`--import`: classes and functions that a model file needs and does not hold."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.custom_objects import import_objects
from saliency_exporter.sources.load import load_source
from saliency_exporter.sources.python_object import import_module

X = tf.constant(np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32))

CLASSES = """
import {keras} as keras
{register}
class Twice(keras.layers.Layer):
    def call(self, x):
        return x * 2
def sharp(x):
    return x * x * x
def make():
    layers = keras.layers
    return keras.Sequential([layers.Input((6,)), layers.Dense(3, activation=ACTIVATION), Twice(name="two")])
"""


@pytest.fixture(params=["keras", "tf_keras"])
def of_keras(request: pytest.FixtureRequest) -> ModuleType:
    return pytest.importorskip(request.param)


@pytest.fixture(params=[".keras", ".h5"])
def suffix(request: pytest.FixtureRequest) -> str:
    return request.param


def classes(of_keras: ModuleType, *, register: str = "", activation: str = "None") -> str:
    text = CLASSES.format(keras=of_keras.__name__, register=register)
    return text.replace("ACTIVATION", activation)


def test_a_class_that_is_not_registered_is_named_and_imported(
    of_keras, suffix, module, tmp_path: Path
) -> None:
    name = module(classes(of_keras))
    model = import_module(name).make()
    path = str(tmp_path / f"my{suffix}")
    model.save(path)
    with pytest.raises(ExportError, match=r"needs Twice \(layer 'two' \(Twice\)\), which") as error:
        load_source(path)
    assert re.search(r"--import \w+:Twice", error.value.hint)
    assert ("tf-keras" in error.value.hint) == (of_keras is not keras)
    loaded = load_source(path, imports=[f"{name}:Twice"])
    np.testing.assert_allclose(loaded.call(X), model(X), rtol=1e-6)


def test_the_module_is_named_where_the_file_knows_it(of_keras, module, tmp_path: Path) -> None:
    name = module(classes(of_keras))
    import_module(name).make().save(tmp_path / "my.keras")
    with pytest.raises(ExportError) as error:
        load_source(str(tmp_path / "my.keras"))
    assert f"--import {name}:Twice" in error.value.hint


def test_a_function_is_imported(of_keras, suffix, module, tmp_path: Path) -> None:
    name = module(classes(of_keras, activation="sharp"))
    model = import_module(name).make()
    path = str(tmp_path / f"my{suffix}")
    model.save(path)
    with pytest.raises(ExportError, match=r"needs sharp \(layer 'dense\w*' \(Dense\)\)") as error:
        load_source(path, imports=[f"{name}:Twice"])
    assert ":sharp" in error.value.hint
    loaded = load_source(path, imports=[f"{name}:Twice", f"{name}:sharp"])
    np.testing.assert_allclose(loaded.call(X), model(X), rtol=1e-6)


def test_a_function_of_tensorflow_is_named_by_its_module(of_keras, suffix, tmp_path: Path) -> None:
    """tf.nn.l2_normalize stands in a file as its name alone, as tf.nn.swish does for Keras 3."""
    path = str(tmp_path / f"my{suffix}")
    model = of_keras.Sequential(
        [of_keras.layers.Input(X.shape[1:]), of_keras.layers.Dense(3, activation=tf.nn.l2_normalize)]
    )
    model.save(path)
    with pytest.raises(ExportError) as error:
        load_source(path)
    (option,) = re.findall(r"--import (\S+),", error.value.hint)
    np.testing.assert_allclose(load_source(path, imports=[option]).call(X), model(X), rtol=1e-6)


def test_a_module_registers_its_classes(of_keras, suffix, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"registering_{of_keras.__name__}_{suffix[1:]}"
    register = "@keras.utils.register_keras_serializable('mine')"
    (tmp_path / f"{name}.py").write_text(classes(of_keras, register=register))
    text = (tmp_path / f"{name}.py").read_text()
    namespace: dict = {"__name__": name}
    exec(text, namespace)
    model = namespace["make"]()
    model.save(f"my{suffix}")
    registered = of_keras.utils.get_custom_objects()
    del registered["mine>Twice"]  # as in a process that has not seen the class
    with pytest.raises(ExportError, match="Twice") as error:
        load_source(f"my{suffix}")
    assert "--import " in error.value.hint
    np.testing.assert_allclose(load_source(f"my{suffix}", imports=[name]).call(X), model(X), rtol=1e-6)
    del registered["mine>Twice"]


def test_a_class_that_was_registered_elsewhere_is_found_under_its_own_name(
    of_keras, suffix, module, tmp_path: Path
) -> None:
    saved = {"keras": of_keras}
    register = "@keras.utils.register_keras_serializable('Addons')"
    exec(classes(of_keras, register=register), saved)
    model = saved["make"]()
    path = str(tmp_path / f"my{suffix}")
    model.save(path)
    del of_keras.utils.get_custom_objects()["Addons>Twice"]
    name = module(classes(of_keras))
    np.testing.assert_allclose(load_source(path, imports=[f"{name}:Twice"]).call(X), model(X), rtol=1e-6)


@pytest.mark.parametrize("activation", ["'tanh'", "'hard_sigmoid'"])
def test_a_layer_of_keras_3_serves_a_file_of_keras_2_that_means_the_same(
    activation: str, module, tmp_path: Path
) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    name = module(classes(tf_keras, activation=activation))
    model = import_module(name).make()
    path = str(tmp_path / "my.h5")
    model.save(path)
    newer = f"{name}_of_keras_3"
    (tmp_path / f"{newer}.py").write_text(classes(keras))
    if activation == "'tanh'":
        loaded = load_source(path, imports=[f"{newer}:Twice"])
        np.testing.assert_allclose(loaded.call(X), model(X), rtol=1e-6)
        return
    with pytest.raises(ExportError, match="what was imported is a layer of Keras 3") as error:
        load_source(path, imports=[f"{newer}:Twice"])
    assert "TF_USE_LEGACY_KERAS=1" in error.value.hint


def test_the_layer_of_tensorflow_hub_is_known_by_its_module(module, tmp_path: Path) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    name = module(classes(tf_keras).replace("Twice", "KerasLayer"))
    model = import_module(name).make()
    model.save(tmp_path / "my.h5")
    with pytest.raises(ExportError, match=r"needs KerasLayer \(layer 'two' \(KerasLayer\)\)") as error:
        load_source(str(tmp_path / "my.h5"))
    assert error.value.hint.startswith(
        "pass --import tensorflow_hub:KerasLayer; it has to be made for tf-keras"
    )
    loaded = load_source(str(tmp_path / "my.h5"), imports=[f"{name}:KerasLayer"])
    np.testing.assert_allclose(loaded.call(X), model(X), rtol=1e-6)


def test_a_saved_model_as_a_layer_asks_for_unsafe(tmp_path: Path) -> None:
    inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, activation="tanh")])
    inner.export(str(tmp_path / "inner"), verbose=False)
    x = keras.Input((6,))
    y = keras.layers.TFSMLayer(str(tmp_path / "inner"), call_endpoint="serve")(x)
    keras.Model(x, y).save(tmp_path / "my.keras")
    with pytest.raises(ExportError, match=r"a SavedModel beside the file \(TFSMLayer\)") as error:
        load_source(str(tmp_path / "my.keras"))
    assert "--unsafe" in error.value.hint
    source = load_source(str(tmp_path / "my.keras"), unsafe=True)
    np.testing.assert_allclose(source.call(X), inner(X), rtol=1e-6)
    with tf.GradientTape() as tape, tf.GradientTape() as right:
        tape.watch(X)
        right.watch(X)
        given, expected = source.call(X), inner(X)
    # Each element is a sum of products of size 1, in float32, whose rounding is 1e-7 of these.
    np.testing.assert_allclose(tape.gradient(given, X), right.gradient(expected, X), rtol=1e-5, atol=1e-6)
    (tmp_path / "inner").rename(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match="SavedModel file does not exist") as error:
        load_source(str(tmp_path / "my.keras"), unsafe=True)
    assert "its path is in the file" in error.value.hint


@pytest.mark.parametrize(
    ("reference", "message", "hint"),
    [
        ("no_such_module", "there is no Python module 'no_such_module'", "modules are looked for in"),
        (
            "my_layers.py",
            "--import my_layers.py: it is not the name of a Python module",
            "write my_layers for",
        ),
        ("folder/my_layers", "it is not the name of a Python module", "write my_layers for"),
        ("json:nothing", "json has no 'nothing'", "JSONDecoder"),
    ],
)
def test_what_cannot_be_imported_is_refused(reference: str, message: str, hint: str) -> None:
    with pytest.raises(ExportError, match=message) as error:
        import_objects([reference])
    assert hint in error.value.hint


def test_an_object_has_its_own_name() -> None:
    assert import_objects(["json", "json:JSONDecoder.decode", "math:pi"]) == {
        "decode": __import__("json").JSONDecoder.decode,
        "pi": 3.141592653589793,
    }
