from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.load import load_source


@pytest.mark.parametrize(
    ("model", "suggestion"),
    [
        ("MobilNetV2", "MobileNetV2"),
        ("resnet50", "ResNet50"),
        ("efficientnet_lite0", "efficientnet-lite0"),
        ("vgg_16", "VGG16"),
    ],
)
def test_an_unknown_name_lists_near_ones(model: str, suggestion: str) -> None:
    with pytest.raises(ExportError, match=f"no model '{model}'") as error:
        load_source(model)
    assert suggestion in error.value.hint


def test_a_name_near_to_nothing_lists_the_kinds_of_models() -> None:
    with pytest.raises(ExportError, match="no model 'qqqq'") as error:
        load_source("qqqq")
    assert "module:callable" in error.value.hint


@pytest.mark.parametrize(
    ("name", "kind", "step"),
    [
        ("model.onnx", "an ONNX model", "onnx2tf"),
        ("model.tflite", "a TensorFlow Lite model", "SavedModel"),
        ("model.pt", "a PyTorch model", "torch.onnx.export"),
        ("model.safetensors", "a file of weights, without the network", "module:function"),
        ("model.ckpt-10.index", "a file of weights, without the network", "module:function"),
        ("model.data-00000-of-00001", "a file of weights, without the network", "module:function"),
        ("model.mlmodel", "a model of another runtime", "Keras"),
        ("model.json", "at most the architecture of a model", "model_from_json"),
        ("model.yaml", "at most the architecture of a model", "load_weights"),
        ("model.txt", "is not a kind of model", ".keras"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_next_step(
    tmp_path: Path, name: str, kind: str, step: str
) -> None:
    path = tmp_path / name
    path.touch()
    with pytest.raises(ExportError, match=kind) as error:
        load_source(str(path))
    assert step in error.value.hint


def test_a_model_of_tensorflow_js_is_told_from_an_architecture(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text('{"modelTopology": {}, "weightsManifest": []}')
    with pytest.raises(ExportError, match=r"is a model of TensorFlow\.js") as error:
        load_source(str(path))
    assert "tensorflowjs_converter" in error.value.hint


@pytest.mark.parametrize(
    ("address", "step"),
    [
        ("https://example.org/nets/cat.keras", "curl -L -o cat.keras 'https://example.org/nets/cat.keras'"),
        ("gs://bucket/nets/1", "gcloud storage cp -r gs://bucket/nets/1 ."),
        ("s3://bucket/nets/1", "aws s3 cp --recursive s3://bucket/nets/1 1"),
        ("s3://bucket/cat.keras", "aws s3 cp s3://bucket/cat.keras cat.keras"),
        ("hf://owner/net", "hf download owner/net --local-dir net"),
        ("https://tfhub.dev/google/net/1", "tensorflow_hub.resolve('https://tfhub.dev/google/net/1')"),
        ("file:///nets/cat.keras", "give its path: /nets/cat.keras"),
    ],
)
def test_an_address_is_refused_with_the_command_that_downloads_it(address: str, step: str) -> None:
    with pytest.raises(ExportError, match="is an address") as error:
        load_source(address)
    assert step in error.value.hint


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    module = tf.Module()
    module.f = tf.function(lambda x: tf.nn.relu(x), input_signature=[tf.TensorSpec([None, 3], name="x")])
    tf.saved_model.save(module, tmp_path / "net", module.f)
    return tmp_path / "net"


def test_the_file_in_a_saved_model_stands_for_its_directory(saved_model: Path) -> None:
    assert load_source(str(saved_model / "saved_model.pb")).name == "net"


@pytest.mark.parametrize("kind", ["zip", "gztar", "tar"])
def test_the_hint_of_an_archive_unpacks_it_and_names_the_model(saved_model: Path, kind: str) -> None:
    folder = saved_model.parent
    archive = shutil.make_archive(str(folder / "packed"), kind, folder, "net")
    with pytest.raises(ExportError, match="is an archive") as error:
        load_source(archive)
    directory = folder / "packed"
    assert error.value.hint.startswith("unpack it, ")
    assert error.value.hint.endswith("and export packed/net")
    shutil.unpack_archive(archive, directory)  # what the command of the hint does
    assert load_source(str(directory / "net")).input_shape == (3,)


def test_an_archive_without_a_model_and_a_damaged_one_are_told(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a")
    archive = shutil.make_archive(str(tmp_path / "notes"), "zip", tmp_path, "notes")
    with pytest.raises(ExportError, match="is an archive without a model"):
        load_source(archive)
    Path(archive).write_bytes(b"PK")
    with pytest.raises(ExportError, match="is an archive that cannot be read"):
        load_source(archive)


def test_a_directory_around_a_model_names_it(saved_model: Path) -> None:
    with pytest.raises(ExportError, match="is a directory with a model inside") as error:
        load_source(str(saved_model.parent))
    assert error.value.hint == f"export {saved_model}"


def test_weights_are_refused_for_a_model_that_brings_its_own() -> None:
    with pytest.raises(ExportError, match="brings its own"):
        load_source("efficientnet-lite0", weights="none")
