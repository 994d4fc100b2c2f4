"""Gray pictures [B, H, W] without an axis for channels: told from series, read, explained and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saliency_client import Explanation, InputError, Signature, TensorSpec
from saliency_client.cli.errors import CommandError
from saliency_client.cli.inputs import Input, read_photo
from saliency_client.cli.looks import Look
from saliency_client.cli.model_input import ModelInput, model_input
from saliency_client.cli.pictures import Answer, encode
from saliency_client.images import ImageError, array_picture, load_array

SHAPE = (6, 8)


def signature(name: str, images: tuple[int | None, ...], **outputs: tuple[int | None, ...]) -> Signature:
    return Signature(
        name,
        {"images": TensorSpec("images", "uint8", images)},
        {key: TensorSpec(key, "float32", shape) for key, shape in outputs.items()},
    )


BARE = (None, *SHAPE)
PICTURES = signature("explain_gradients", BARE, gradients=BARE, saliency=BARE, score=(None,))
SERIES = signature("explain_gradients", BARE, gradients=BARE, saliency=BARE[:2], score=(None,))
PREDICTIONS = signature("serving_default", BARE, logits=(None, 4))
GREY = ModelInput("explain_gradients", *SHAPE, None, "uint8")


def test_saliency_as_large_as_the_images_says_that_these_have_no_channels() -> None:
    assert not PICTURES.has_channels
    assert SERIES.has_channels
    assert signature("explain_gradients", (*BARE, 3), saliency=BARE).has_channels
    assert PREDICTIONS.has_channels


def test_saliency_comes_unasked_and_the_map_does_not() -> None:
    assert PICTURES.large == {"gradients"}
    assert PICTURES.signed_map == "gradients"
    assert PICTURES.image_size == SHAPE
    with pytest.raises(InputError, match="not images"):
        _ = SERIES.image_size


def test_a_command_takes_pictures_and_no_series() -> None:
    assert model_input(PICTURES) == GREY
    assert model_input(PREDICTIONS, {s.name: s for s in (PICTURES, PREDICTIONS)}).shape == SHAPE
    for alone in (SERIES, PREDICTIONS):
        with pytest.raises(CommandError, match="not images"):
            model_input(alone, {s.name: s for s in (SERIES, PREDICTIONS)})


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_photo_becomes_gray_without_channels(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (16, 12), 200 if mode == "L" else (200,) * len(mode)).save(tmp_path / "photo.png")
    photo = read_photo(Input(str(tmp_path / "photo.png")), GREY, resize="crop", max_pixels=10**6)
    assert photo.array.shape == SHAPE
    assert photo.array.dtype == np.uint8
    assert photo.box == (0, 0, 16, 12)


@pytest.mark.parametrize("shape", [SHAPE, (1, *SHAPE), (*SHAPE, 1), (1, *SHAPE, 1)])
@pytest.mark.parametrize("wanted", [SHAPE, (*SHAPE, 1)])
def test_an_array_may_have_the_one_channel_or_not(tmp_path: Path, shape, wanted) -> None:
    values = np.arange(48, dtype=np.uint8)
    np.save(tmp_path / "input.npy", values.reshape(shape))
    photo = load_array(tmp_path / "input.npy", wanted, "uint8")
    np.testing.assert_array_equal(photo.array, values.reshape(wanted))
    assert photo.picture.size == (8, 6)


@pytest.mark.parametrize(
    ("shape", "wanted", "hint"),
    [
        ((6, 8, 3), (6, 8, 1), "only the channels differ, 3 for 1"),
        ((6, 8, 4), (6, 8, 3), "array[..., :3]"),
        ((6, 8, 3), (6, 8), "[height, width], per file"),
        ((5, 8, 3), (6, 8, 3), "[height, width, channels], per file"),
    ],
)
def test_an_array_that_does_not_fit_is_told_why(tmp_path: Path, shape, wanted, hint) -> None:
    np.save(tmp_path / "input.npy", np.zeros(shape, np.uint8))
    with pytest.raises(ImageError, match="the model takes") as error:
        load_array(tmp_path / "input.npy", wanted, "uint8")
    assert hint in error.value.hint


def test_views_of_the_map_have_its_size() -> None:
    gradients = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    explanation = Explanation(
        {"gradients": gradients, "saliency": np.abs(gradients)}, method="gradients", model="m", channels=False
    )
    for one in (explanation, explanation[:]):
        np.testing.assert_array_equal(one.absolute(), np.abs(gradients))
        np.testing.assert_array_equal(one.positive() - one.negative(), gradients)


@pytest.mark.parametrize(
    "look",
    [Look(), Look("panel"), Look(polarity="both"), Look("heatmap"), Look("masked"), Look("outlines")]
    + [Look(style, regions=True) for style in ("overlay", "masked", "outlines", "panel")],
)
def test_every_style_draws_it(look: Look) -> None:
    gradients = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    explanation = Explanation(
        {"gradients": gradients, "saliency": np.abs(gradients)}, method="gradients", model="m", channels=False
    )
    array = np.arange(48, dtype=np.uint8).reshape(SHAPE)
    picture = array_picture(array)
    np.testing.assert_array_equal(np.asarray(picture)[..., 0], array)
    from saliency_client.images import Photo

    photo = Photo(array, picture, (0, 0, 8, 6), "photo")
    halves = np.stack([np.tri(6, 8, dtype=bool), ~np.tri(6, 8, dtype=bool)])
    answer = Answer(explanation, "gradients", {"class_index": 1}, lambda: halves)
    assert encode([answer], photo, look, "png", {}, "test")[1:4] == b"PNG"
    if look.signed:
        drawn = np.load(_file(encode([answer], photo, look, "npy", {}, "test")))
        np.testing.assert_allclose(drawn, gradients[0])


def _file(content: bytes):
    import io

    return io.BytesIO(content)
