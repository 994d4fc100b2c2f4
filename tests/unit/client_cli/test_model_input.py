"""How many classes a served model has, from its metadata alone."""

from __future__ import annotations

import pytest

from saliency_client import Signature, TensorSpec
from saliency_client._signatures import number_of_classes


def predicting(signature: str = "serving_default", **shapes: tuple[int | None, ...] | None) -> Signature:
    outputs = {name: TensorSpec(name, "float32", shape) for name, shape in shapes.items()}
    return Signature(signature, {}, outputs)


@pytest.mark.parametrize(
    ("shapes", "classes"),
    [
        ({"logits": (None, 5), "probabilities": (None, 5), "boxes": (None, 4)}, 5),
        ({"probabilities": (None, 3)}, 3),
        ({"dense_1": (None, 7), "features": (None, 7, 7, 64)}, 7),
        ({"boxes": (None, 4), "scores": (None, 90)}, None),
        ({"logits": (None, None)}, None),
        ({"logits": None}, None),
        ({"features": (None, 7, 7, 64)}, None),
        ({}, None),
    ],
)
def test_the_number_of_classes_is_told_only_where_the_outputs_leave_no_doubt(
    shapes: dict[str, tuple[int | None, ...] | None], classes: int | None
) -> None:
    assert number_of_classes({"serving_default": predicting(**shapes)}) == classes


def test_it_is_that_of_the_signature_that_takes_images() -> None:
    signatures = {
        "serving_default": predicting(scores=(None, 2)),
        "serving_images": predicting("serving_images", logits=(None, 9)),
    }
    assert number_of_classes(signatures) == 9
    assert number_of_classes({"explain_gradients": predicting("explain_gradients", logits=(None, 9))}) is None
