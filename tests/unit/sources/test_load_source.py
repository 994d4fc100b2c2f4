from __future__ import annotations

from pathlib import Path

import pytest

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


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    with pytest.raises(ExportError, match="not a kind of model") as error:
        load_source(str(path))
    assert ".keras" in error.value.hint


def test_weights_are_refused_for_a_model_that_brings_its_own() -> None:
    with pytest.raises(ExportError, match="brings its own"):
        load_source("efficientnet-lite0", weights="none")
