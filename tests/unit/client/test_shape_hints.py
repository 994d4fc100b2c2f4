"""What a client is told of images that a model does not take: what is wrong, and a step that works."""

from __future__ import annotations

import numpy as np
import pytest

from saliency_client import InputError, Signature, TensorSpec
from saliency_client._requests import ModelName, explain_request
from saliency_client._shapes import shape_hint

RGB, GREY, RGBA, BARE = (None, 6, 5, 3), (None, 6, 5, 1), (None, 6, 5, 4), (None, 6, 5)


@pytest.mark.parametrize(
    ("have", "want", "step"),
    [
        ((2, 6, 5, 4), RGB, "images[..., :3]"),
        ((2, 6, 5, 1), RGB, "images.repeat(3, axis=-1)"),
        ((2, 6, 5), RGB, "images[..., None].repeat(3, axis=-1)"),
        ((2, 6, 5), GREY, "images[..., None]"),
        ((6, 5), GREY, "images[..., None]"),
        ((6, 5), RGB, "images[..., None].repeat(3, axis=-1)"),
        ((2, 6, 5, 2), GREY, "images[..., :1]"),
        ((2, 3, 6, 5), RGB, "images.transpose(0, 2, 3, 1)"),
        ((2, 1, 6, 5), GREY, "images.transpose(0, 2, 3, 1)"),
        ((2, 6, 5, 1), BARE, "images[..., 0]"),
    ],
)
def test_a_hint_that_is_python_gives_what_the_model_takes(have, want, step) -> None:
    signature = Signature(
        "explain_gradients",
        {"images": TensorSpec("images", "uint8", want)},
        {"saliency": TensorSpec("saliency", "float32", (None, 6, 5))},
    )
    images = np.arange(np.prod(have), dtype=np.uint8).reshape(have)
    model = ModelName("m")
    with pytest.raises(InputError, match="the model takes") as error:
        explain_request(model, signature, images, {}, None)
    assert step in error.value.hint
    assert "resize" not in error.value.hint
    code = error.value.hint[error.value.hint.index(step) :]
    explain_request(model, signature, eval(code, {"images": images}), {}, None)


@pytest.mark.parametrize(
    ("have", "want", "words"),
    [
        ((2, 6, 5, 3), GREY, ["only the channels differ, 3 for 1", "load_image(path, size=…, channels=1)"]),
        ((2, 6, 5, 3), RGBA, ["only the channels differ, 3 for 4", "load_image(path, size=…, channels=4)"]),
        ((2, 6, 5, 3), (None, 6, 5, 7), ["3 for 7", "other data"]),
        ((2, 6, 5, 3), BARE, ["without channels", "channels=1).array[..., 0]"]),
        ((2, 9, 5, 3), RGB, ["resize to height 6, width 5"]),
        ((2, 9, 5, 3), GREY, ["resize to height 6, width 5", "size=(6, 5), channels=1"]),
    ],
)
def test_a_hint_in_words_says_what_is_wrong(have, want, words) -> None:
    hint = shape_hint("images", have, want)
    assert hint is not None
    assert all(word in hint for word in words)


@pytest.mark.parametrize("have", [(2, 9, 5), (2, 9, 5, 3), (7,)])
def test_nothing_is_said_of_series_that_do_not_fit(have) -> None:
    assert shape_hint("images", have, BARE) is None
