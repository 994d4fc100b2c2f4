"""A small convolutional network and its backward passes written out in NumPy, float64.

It shares no code with TensorFlow or the exporter: what they compute is held against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


FORWARD = {
    "relu": lambda x: np.where(x > 0, x, 0),
    "relu6": lambda x: np.minimum(np.where(x > 0, x, 0), 6),
    "swish": lambda x: x * sigmoid(x),
}
DERIVATIVE = {
    "relu": lambda x: (x > 0).astype(float),
    "relu6": lambda x: ((x > 0) & (x < 6)).astype(float),
    "swish": lambda x: sigmoid(x) * (1 + x * (1 - sigmoid(x))),
}


@dataclass(frozen=True)
class NumpyNet:
    """conv k×k valid → activation → conv k×k valid → activation → flatten → dense: scores [classes]."""

    kernels: tuple[np.ndarray, np.ndarray]
    biases: tuple[np.ndarray, np.ndarray]
    dense: np.ndarray
    activations: tuple[str, str]

    @classmethod
    def random(cls, activations: tuple[str, str], seed: int = 0) -> NumpyNet:
        rng = np.random.default_rng(seed)
        # The first layer is large enough that some inputs of ReLU6 lie above 6.
        kernels = (3 * rng.normal(size=(3, 3, 2, 4)), 0.3 * rng.normal(size=(2, 2, 4, 3)))
        biases = (rng.normal(size=4), rng.normal(size=3))
        return cls(kernels, biases, rng.normal(size=(3 * 3 * 3, 4)), activations)

    input_shape = (6, 6, 2)

    def pre_activations(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first = convolve(x, self.kernels[0]) + self.biases[0]
        second = convolve(FORWARD[self.activations[0]](first), self.kernels[1]) + self.biases[1]
        return first, second

    def scores(self, x: np.ndarray) -> np.ndarray:
        return FORWARD[self.activations[1]](self.pre_activations(x)[1]).ravel() @ self.dense

    def backward(self, x: np.ndarray, c: int, *, guided: bool) -> np.ndarray:
        """∂S_c/∂x by the chain rule; guided: with the signal blocked where it or the input is negative."""
        first, second = self.pre_activations(x)
        signal = self.dense[:, c].reshape(second.shape)
        for pre, kernel, name in (
            (second, self.kernels[1], self.activations[1]),
            (first, self.kernels[0], self.activations[0]),
        ):
            passed = signal * DERIVATIVE[name](pre)
            if guided:
                passed = np.where((pre > 0) & (signal > 0), passed, 0)
            signal = convolve_back(passed, kernel)
        return signal


def convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    rows, columns = x.shape[0] - kernel.shape[0] + 1, x.shape[1] - kernel.shape[1] + 1
    out = np.zeros((rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            window = x[i : i + kernel.shape[0], j : j + kernel.shape[1]]
            out[i, j] = np.tensordot(window, kernel, axes=3)
    return out


def convolve_back(signal: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    shape = (signal.shape[0] + kernel.shape[0] - 1, signal.shape[1] + kernel.shape[1] - 1, kernel.shape[2])
    x = np.zeros(shape)
    for i in range(signal.shape[0]):
        for j in range(signal.shape[1]):
            x[i : i + kernel.shape[0], j : j + kernel.shape[1]] += np.tensordot(
                kernel, signal[i, j], axes=(3, 0)
            )
    return x


def finite_differences(function, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences of a scalar function, float64."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient
