from __future__ import annotations

import os
from collections.abc import Callable

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)


@pytest.fixture
def small_model() -> keras.Model:
    """A classifier with the layers that behave differently in training."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="pixels"),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(name="relu"),
            keras.layers.Dropout(0.5, name="dropout"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(5, activation="softmax", name="probabilities"),
        ],
        name="small",
    )


@pytest.fixture
def specification() -> Callable[..., tf.TensorSpec]:
    return lambda source: tf.TensorSpec([None, *source.input_shape], tf.float32)
