"""Python code in a model file, and the names that it uses."""

from __future__ import annotations

import base64
import json
import marshal
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.utils import python_utils

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.load import load_source
from saliency_exporter.sources.python_object import import_module

X = tf.constant(np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32))


@pytest.fixture(params=["keras", "tf_keras"])
def of_keras(request: pytest.FixtureRequest) -> ModuleType:
    return pytest.importorskip(request.param)


@pytest.fixture(autouse=True)
def clean_names() -> Iterator[None]:
    """Takes back what a test gave to Keras's module."""
    names = dict(vars(python_utils))
    yield
    vars(python_utils).clear()
    vars(python_utils).update(names)


def saved(of_keras: ModuleType, source: str, path: Path, names: dict[str, Any], **options: Any) -> Any:
    """A model with a Lambda layer whose code is of another module, which has ``names``."""
    function: Callable = eval(source, {"__name__": "elsewhere", **names})
    layers = of_keras.layers
    x = layers.Input((6,))
    model = of_keras.Model(x, layers.Lambda(function, name="code", **options)(x))
    model.save(path)
    return model


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("options", [{}, {"output_shape": (6,)}], ids=["", "output shape"])
def test_names_of_everyday_imports_are_known(of_keras, suffix: str, options, tmp_path: Path) -> None:
    path = tmp_path / f"my{suffix}"
    names = {"tf": tf, "np": np, "K": tf.keras.backend if of_keras is keras else of_keras.backend}
    names["keras"] = of_keras
    source = "lambda x: tf.square(x) * np.pi + K.max([keras.activations.relu(y) for y in [x]], axis=0)"
    saved(of_keras, source, path, names, **options)
    loaded = load_source(str(path), unsafe=True)
    x = X.numpy()
    np.testing.assert_allclose(loaded.call(X), x**2 * np.pi + np.maximum(x, 0), rtol=1e-5)
    assert "layer 'code' (Lambda) uses tf, which is taken for tensorflow" in loaded.notes


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_another_name_is_asked_for_and_taken_from_an_import(of_keras, suffix: str, module, tmp_path) -> None:
    path = tmp_path / f"my{suffix}"
    saved(of_keras, "lambda x: [y * SCALE for y in [x]][0]", path, {"SCALE": 3.0}, output_shape=(6,))
    with pytest.raises(ExportError, match=r"code of layer 'code' \(Lambda\) uses 'SCALE'") as error:
        load_source(str(path), unsafe=True)
    assert "--import module:SCALE" in error.value.hint
    name = module("SCALE = 3.0")
    loaded = load_source(str(path), unsafe=True, imports=[f"{name}:SCALE"])
    np.testing.assert_allclose(loaded.call(X), X * 3)
    assert loaded.notes == ()


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_code_has_the_defaults_that_it_was_saved_with(of_keras, suffix: str, tmp_path: Path) -> None:
    """As people keep a loop's variable in a lambda. Keras 3 saves the defaults and cannot load them."""
    path = tmp_path / f"my{suffix}"
    saved(of_keras, "lambda x, i=2, factor=3.0: x[:, i:] * factor", path, {}, output_shape=(4,))
    load = python_utils.func_load
    loaded = load_source(str(path), unsafe=True)
    np.testing.assert_allclose(loaded.call(X), X[:, 2:] * 3, rtol=1e-6)
    assert python_utils.func_load is load


def test_code_that_needs_no_name_runs(of_keras, tmp_path: Path) -> None:
    half = 0.5
    function = lambda x: abs(x) * half  # noqa: E731 - a name of the function around it is saved
    layers = of_keras.layers
    of_keras.Sequential([layers.Input((6,)), layers.Lambda(function)]).save(tmp_path / "my.keras")
    np.testing.assert_allclose(load_source(str(tmp_path / "my.keras"), unsafe=True).call(X), abs(X) * 0.5)


def test_nothing_runs_and_nothing_is_unpacked_unless_asked_for(of_keras, tmp_path: Path, monkeypatch) -> None:
    saved(of_keras, "lambda x: x * 2", tmp_path / "my.keras", {})
    monkeypatch.setattr(marshal, "loads", lambda code: pytest.fail("code was unpacked"))
    with pytest.raises(ExportError, match="Python code of its own"):
        load_source(str(tmp_path / "my.keras"))


@pytest.mark.parametrize("code", [b"not code", b"\xe3" + bytes(9)])
def test_code_of_another_python_is_refused(code: bytes, tmp_path: Path) -> None:
    saved(keras, "lambda x: x * 2", tmp_path / "good.keras", {})
    with (
        zipfile.ZipFile(tmp_path / "good.keras") as good,
        zipfile.ZipFile(tmp_path / "bad.keras", "w") as bad,
    ):
        for member in good.namelist():
            content = good.read(member)
            if member == "config.json":
                config = json.loads(content)
                config["config"]["layers"][1]["config"]["function"]["config"]["code"] = base64.b64encode(
                    code
                ).decode()
                content = json.dumps(config).encode()
            bad.writestr(member, content)
    with pytest.raises(ExportError, match=r"layer 'code' \(Lambda\) is not of Python 3") as error:
        load_source(str(tmp_path / "bad.keras"), unsafe=True)
    assert sys.version.split()[0] in str(error.value)
    assert "load_weights" in error.value.hint


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("unsafe", [True, False])
def test_a_lambda_as_an_activation_is_refused_with_a_way_that_works(
    of_keras, suffix: str, unsafe: bool, module, tmp_path: Path
) -> None:
    path = tmp_path / f"my{suffix}"
    name = module(
        f"""
        import {of_keras.__name__} as keras
        def build():
            layers = keras.layers
            return keras.Sequential([layers.Input((6,)), layers.Dense(3, activation=lambda x: x * x)])
        def make():
            model = build()
            model.load_weights({str(path)!r})
            return model
        """
    )
    model = import_module(name).build()
    model.save(path)
    with pytest.raises(ExportError, match=r"layer 'dense\w*' \(Dense\) has a lambda for") as error:
        load_source(str(path), unsafe=unsafe)
    assert "calls its load_weights with this file" in error.value.hint
    np.testing.assert_allclose(load_source(f"{name}:make").call(X), model(X), rtol=1e-6)
