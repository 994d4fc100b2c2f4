"""How an export is held against what its original answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import originals
import pytest
import skimage.data
from PIL import Image
from server_process import ServerProcess

from saliency_client import Explanation, SaliencyClient
from saliency_exporter.runtime.servable import Servable, load_servable


def photo(
    name: str, size: tuple[int, int], *, box: tuple[int, ...] | None = None, mode: str = "RGB"
) -> np.ndarray:
    """One of scikit-image's photos, uint8 [1, H, W, C]."""
    picture = Image.fromarray(getattr(skimage.data, name)()).convert(mode)
    pixels = np.asarray(picture.resize(size[::-1], Image.Resampling.BICUBIC, box=box))
    return pixels.reshape(1, *size, -1)


def ask(
    servable: Servable, method: str, images: np.ndarray, c: int, **inputs: object
) -> Mapping[str, np.ndarray]:
    """What a signature answers of one image."""
    extra = {name: np.asarray(value) for name, value in inputs.items()}
    return servable.predict(f"explain_{method}", {"images": images, "class_index": np.int32(c), **extra})


def hold(
    version: Path,
    images: np.ndarray,
    c: int,
    expected: originals.Answer,
    probability: float,
    bound: float,
    *,
    guided_bound: float | None = None,
) -> None:
    """Holds all methods of an export against what the original answers of class c."""
    servable = load_servable(version)
    try:
        answers = {name: ask(servable, name, images, c) for name in ("gradients", "guided")}
        none = {"num_samples": np.int32(2), "noise_level": np.float32(0)}
        answers["smooth"] = ask(servable, "smooth", images, c, **none)
    finally:
        servable.close()
    for name, answer in answers.items():
        limit = guided_bound if name == "guided" and guided_bound is not None else bound
        assert answer["score"][0] == pytest.approx(expected.score, rel=1e-4, abs=1e-4), name
        assert answer["probability"][0] == pytest.approx(probability, rel=1e-3, abs=1e-5), name
        wanted = expected.guided if name == "guided" else expected.gradients
        assert np.linalg.norm(wanted) > 0
        assert np.linalg.norm(answer["gradients"][0] - wanted) <= limit * np.linalg.norm(wanted), name
        norms = np.abs(wanted).max(-1)
        difference = np.linalg.norm(answer["saliency"][0] - norms)
        assert difference <= limit * np.linalg.norm(norms), name


def served(version: Path, images: np.ndarray, method: str = "gradients") -> Explanation:
    """What a client gets from the local server."""
    server = ServerProcess(f"real={version.parent}")
    try:
        with SaliencyClient(server.target, model="real", timeout=60) as client:
            client.wait_ready(120)
            return client.explain(images, method=method, outputs="all")
    finally:
        server.stop()


def before_the_head(model: keras.Model) -> keras.Model:
    """A functional model without its last softmax, a layer of its own or the last layer's activation."""
    last = model.layers[-1]
    if isinstance(last, keras.layers.Softmax | keras.layers.Activation):
        return keras.Model(model.inputs, model.layers[-2].output)
    assert last.activation is keras.activations.softmax
    last.activation = keras.activations.linear
    return model


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
