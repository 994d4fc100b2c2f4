"""explain_until on an exported model behind the local server: slices give what one call gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from saliency_client import Explanation, SaliencyClient, UnknownParameter
from saliency_exporter.contract.settings import Settings
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.serving.server import LocalServer
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.sources.source import Source
from saliency_exporter.version.write import Export, export

MODEL = "small"
SHAPE = (12, 10, 3)
FEW = ("rise(grid=3)",)
MORE = ("smooth", "smooth(gradient_x_input)", "smooth(grad_cam)", "integrated_gradients")
RANDOM = np.random.default_rng(3)
KERNEL = (RANDOM.normal(size=(3, 3, 3, 6)) / 3).astype(np.float32)
DENSE = RANDOM.normal(size=(6 * 5 * 6, 4)).astype(np.float32)


def scores(x: tf.Tensor) -> tf.Tensor:
    features = tf.nn.relu(tf.nn.conv2d(x, KERNEL, strides=2, padding="SAME"))
    return tf.nn.softmax(tf.reshape(features, [-1, 6 * 5 * 6]) @ DENSE)


@contextmanager
def serving(folder: Path, methods: tuple[str, ...]) -> Iterator[SaliencyClient]:
    settings = Settings(compile="none", batch_sizes=(2,), methods=find_methods(methods))
    export(Export(Source(MODEL, "test", scores, SHAPE, ()), builtin("tf"), settings, MODEL), folder / MODEL)
    with (
        LocalServer({MODEL: folder / MODEL}, poll_seconds=0, warmup=False) as running,
        SaliencyClient(running.target, model=MODEL) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def local_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SaliencyClient]:
    with serving(tmp_path_factory.mktemp("few"), FEW) as client:
        yield client


@pytest.fixture(scope="module")
def more_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SaliencyClient]:
    with serving(tmp_path_factory.mktemp("more"), MORE) as client:
        yield client


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, *SHAPE), np.uint8)


def assert_alike(slices: Explanation, whole: Explanation, *, pairs: bool) -> None:
    assert set(slices.outputs) == set(whole.outputs)
    for name, values in whole.outputs.items():
        assert slices[name].dtype == values.dtype
        if pairs and name in ("relative_error", "standard_error"):
            # A client does not know of pairs: both are unbiased, and differ by what a few pairs less tell.
            np.testing.assert_allclose(slices[name], values, rtol=0.1, err_msg=name)
        elif values.dtype.kind == "f":
            # The variance is a small difference of sums: to rounding of what is summed.
            scale = np.abs(values[np.isfinite(values)]).max(initial=0)
            np.testing.assert_allclose(slices[name], values, rtol=1e-5, atol=1e-5 * scale, err_msg=name)
        else:
            np.testing.assert_array_equal(slices[name], values, err_msg=name)


def test_slices_of_masks_give_what_one_call_gives(local_client: SaliencyClient, images) -> None:
    check_slices(local_client, images, "rise")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["smooth", "smooth_gradient_x_input", "smooth_grad_cam"])
def test_slices_of_noise_give_what_one_call_gives(more_client: SaliencyClient, images, method: str) -> None:
    check_slices(more_client, images, method)


def check_slices(client: SaliencyClient, images: np.ndarray, method: str) -> None:
    count = "num_masks" if method == "rise" else "num_samples"
    given = {"method": method, count: [74, 30], "seed": [3, 4], "class_index": [1, -1]}
    *before, last = client.explain_until(images, target_error=0, **given)
    whole = client.explain(images, outputs="all", **given)

    assert len(before) >= 3
    assert_alike(last, whole, pairs=method != "rise")


@pytest.mark.slow
def test_slices_reach_a_target_that_one_call_reaches_and_say_how_many_it_took(
    more_client: SaliencyClient, images
) -> None:
    given = {"method": "smooth", "num_samples": 1000, "target_error": 0.2}
    whole = more_client.explain(images, **given)
    *_, last = more_client.explain_until(images, **given)

    assert (last["relative_error"] <= 0.2).all()
    assert (whole["samples_used"] < 1000).all()
    assert (last["samples_used"] >= whole["samples_used"]).all()
    for one, image in zip(last, images, strict=True):
        again = more_client.explain(
            image,
            method="smooth",
            num_samples=one["samples_used"],
            class_index=one.class_index,
            outputs="all",
        )
        assert_alike(one, again, pairs=True)


@pytest.mark.slow
def test_the_bound_of_a_call_is_that_of_a_slice(more_client: SaliencyClient, images) -> None:
    *_, last = more_client.explain_until(images[0], method="smooth", num_samples=1200, target_error=0)
    assert last["samples_used"].tolist() == [1200]


@pytest.mark.slow
def test_a_method_that_takes_steps_is_asked_in_one_call(more_client: SaliencyClient, images) -> None:
    with pytest.raises(UnknownParameter, match="takes no first_sample") as caught:
        next(more_client.explain_until(images, method="integrated_gradients", target_error=0.1))
    assert caught.value.hint is not None
