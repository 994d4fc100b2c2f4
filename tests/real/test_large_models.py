"""A vision transformer and a ConvNeXt of full size, with random weights, exported by the command line."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import keras
import large_models
import numpy as np
import originals
import pytest
from held import before_the_head, hold, photo, softmax

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SMOOTH = 1e-4
"""Bound of ‖difference‖₂ / ‖expected‖₂ of gradients: float32 rounding, and no activation with a kink."""

GUIDED = 2e-2
"""The same of guided maps, where a signal within rounding of zero may or may not pass."""

CLASS = 7


def _hold(
    export: Callable[..., Path], make: Callable[[], keras.Model], scores: Callable, low: float, high: float
) -> None:
    version = export(f"large_models:{make.__name__}", "--preprocessing", "none")
    pixels = photo("chelsea", (224, 224), box=(75, 0, 375, 300)).astype(np.float32)
    x = low + (high - low) * pixels / 255
    model = scores(make())
    probabilities = softmax(model(x).numpy()[0].astype(np.float64))
    expected = originals.of_keras(model, x, lambda scores: scores[0, CLASS])
    hold(version, x, CLASS, expected, probabilities[CLASS], SMOOTH, guided_bound=GUIDED)


def test_a_vision_transformer_of_86_million_weights_has_the_maps_of_the_original(export):
    _hold(export, large_models.vision_transformer, before_the_head, -1, 1)


def test_a_convnext_has_the_maps_of_the_original(export):
    _hold(export, large_models.convnext, lambda model: model, 0, 255)


@pytest.mark.skipif(importlib.util.find_spec("keras_hub") is None, reason="keras-hub is not installed")
def test_the_vision_transformer_of_keras_hub_has_the_maps_of_the_original(export):
    _hold(export, large_models.hub_vision_transformer, lambda model: model, -1, 1)
