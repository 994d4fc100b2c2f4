"""Explains with other libraries in process: one call for each line of JSON on stdin, its time on stdout.

    {"peer": "xplique", "method": "gradients", "batch": 8} → {"ms": 123.4}

Runs in an environment of its own (requirements.txt beside this file), on a Keras model that gives logits and
on model inputs that are already preprocessed. `samples` (default 50) is for smooth, and the number of steps
of integrated_gradients; `save` names a file for the map, [B, H, W]. What a library cannot do is answered with
{"refused": why}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import tensorflow as tf

CLASS_INDEX = 7
NOISE_LEVEL = 0.15
SAMPLES_AT_ONCE = 10
"""How many noisy images a peer that can do so explains at once; more are not faster here."""

Explain = Callable[[np.ndarray, int], np.ndarray]
"""Model inputs, float32 [B, H, W, C], and a number of samples (for smooth) to maps, [B, H, W]."""


class Refused(Exception):
    """The library has no such method, or not for this model."""


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    # Libraries print what they like; the answers' channel is kept clean.
    os.dup2(2, 1)
    model = keras.saving.load_model(sys.argv[1], compile=False)
    images = np.load(sys.argv[2])
    made: dict[tuple[object, ...], Explain | str] = {}
    print(json.dumps({"ready": versions(), "kernels": kernels()}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), model, images, made)), file=answers, flush=True)


def versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("tensorflow", "keras", "numpy", "xplique", "tf-keras-vis", "saliency")
    return {name: version(name) for name in names}


def kernels() -> str:
    """Which of TensorFlow's kernels this process runs on a CPU."""
    from tensorflow.python.util import _pywrap_util_port

    return "onednn" if _pywrap_util_port.IsMklEnabled() else "eigen"


def answer(
    request: dict[str, object],
    model: keras.Model,
    images: np.ndarray,
    made: dict[tuple[object, ...], Explain | str],
) -> dict[str, object]:
    peer, method = request["peer"], request["method"]
    key = (peer, method)
    if key not in made:
        try:
            made[key] = PEERS[peer](model, method)
        except Refused as refusal:
            made[key] = str(refusal)
    explain = made[key]
    if isinstance(explain, str):
        return {"refused": explain}
    x = images[: request["batch"]]
    start = time.perf_counter()
    try:
        maps = explain(x, request.get("samples", 50))
    except Exception as error:
        made[key] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return {"refused": made[key]}
    took = 1e3 * (time.perf_counter() - start)
    if "save" in request:
        np.save(request["save"], maps)
    return {"ms": took}


def score_gradient(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    def gradient(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            scores = model(x, training=False)[:, CLASS_INDEX]
        return tape.gradient(scores, x)

    return gradient


def to_map(gradients: np.ndarray) -> np.ndarray:
    return np.abs(np.asarray(gradients)).max(axis=-1)


def tape(model: keras.Model, method: str) -> Explain:
    """What one writes by hand: a GradientTape in a tf.function, and a loop of it for SmoothGrad."""
    gradient = score_gradient(model)
    if method == "gradients":
        compiled = tf.function(gradient, autograph=False)
        return lambda x, samples: to_map(compiled(tf.constant(x)).numpy())
    if method == "grad_cam":
        return _cam_by_tape(model)
    if method == "integrated_gradients":
        return _integrated_by_tape(gradient)
    if method != "smooth":
        raise Refused("a tape has no guided rule")

    @tf.function(autograph=False)
    def smooth(x: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        at_once = max(1, SAMPLES_AT_ONCE // x.shape[0])
        sigma = NOISE_LEVEL * (
            tf.reduce_max(x, [1, 2, 3], keepdims=True) - tf.reduce_min(x, [1, 2, 3], keepdims=True)
        )
        repeated, sigma = tf.repeat(x, at_once, 0), tf.repeat(sigma, at_once, 0)

        def step(i: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            gradients = gradient(repeated + sigma * tf.random.normal(repeated.shape))
            by_image = tf.reshape(gradients, [x.shape[0], at_once, *x.shape[1:]])
            return i + 1, total + tf.reduce_sum(by_image, 1)

        steps = -(-samples // at_once)
        _, total = tf.while_loop(lambda i, _: i < steps, step, (0, tf.zeros_like(x)), parallel_iterations=1)
        return total / tf.cast(steps * at_once, tf.float32)

    return lambda x, samples: to_map(smooth(tf.constant(x), tf.constant(samples)).numpy())


def feature_layer(model: keras.Model) -> keras.layers.Layer:
    """The last layer whose output has a height and a width."""
    return next(layer for layer in reversed(model.layers) if len(layer.output.shape) == 4)


def _cam_by_tape(model: keras.Model) -> Explain:
    both = keras.Model(model.inputs[0], [feature_layer(model).output, model.outputs[0]])

    @tf.function(autograph=False)
    def cam(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            features, scores = both(x, training=False)
            score = scores[:, CLASS_INDEX]
        weights = tf.reduce_mean(tape.gradient(score, features), [1, 2], keepdims=True)
        small = tf.nn.relu(tf.reduce_sum(weights * features, -1, keepdims=True))
        return tf.image.resize(small, x.shape[1:3])[..., 0]

    return lambda x, samples: cam(tf.constant(x)).numpy()


def _integrated_by_tape(gradient: Callable[[tf.Tensor], tf.Tensor]) -> Explain:
    """Midpoints from a baseline of zeros, in batches of SAMPLES_AT_ONCE."""

    @tf.function(autograph=False)
    def integrated(x: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
        at_once = max(1, SAMPLES_AT_ONCE // x.shape[0])
        repeated = tf.repeat(x, at_once, 0)

        def step(i: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            alpha = (tf.cast(i * at_once + tf.range(at_once), tf.float32) + 0.5) / tf.cast(steps, tf.float32)
            alpha = tf.tile(alpha, [x.shape[0]])[:, None, None, None]
            by_image = tf.reshape(gradient(alpha * repeated), [x.shape[0], at_once, *x.shape[1:]])
            return i + 1, total + tf.reduce_sum(by_image, 1)

        turns = -(-steps // at_once)
        _, total = tf.while_loop(lambda i, _: i < turns, step, (0, tf.zeros_like(x)), parallel_iterations=1)
        return x * total / tf.cast(steps, tf.float32)

    return lambda x, samples: np.abs(integrated(tf.constant(x), tf.constant(samples)).numpy().sum(-1))


def xplique(model: keras.Model, method: str) -> Explain:
    from xplique.attributions import GradCAM, GuidedBackprop, IntegratedGradients, Saliency, SmoothGrad

    if method == "gradients":
        explainer = Saliency(model)
    elif method == "guided":
        explainer = GuidedBackprop(model, reducer="max")
    elif method == "grad_cam":
        explainer = GradCAM(model, conv_layer=feature_layer(model).name)
    elif method == "integrated_gradients":
        return _integrated_by_xplique(model, IntegratedGradients)
    else:
        explainer = None
    targets = tf.one_hot([CLASS_INDEX], model.output_shape[-1])

    def explain(x: np.ndarray, samples: int) -> np.ndarray:
        # Its noise is absolute, so that images of different range need an explainer each; these have one.
        noise = NOISE_LEVEL * float(x[0].max() - x[0].min())
        used = explainer or SmoothGrad(
            model, batch_size=SAMPLES_AT_ONCE, nb_samples=samples, noise=noise, reducer="max"
        )
        return np.asarray(used.explain(tf.constant(x), tf.repeat(targets, len(x), 0)))[..., 0]

    return explain


def _integrated_by_xplique(model: keras.Model, explainer: Callable) -> Explain:
    targets = tf.one_hot([CLASS_INDEX], model.output_shape[-1])

    def explain(x: np.ndarray, samples: int) -> np.ndarray:
        used = explainer(model, batch_size=SAMPLES_AT_ONCE, steps=samples, baseline_value=0.0, reducer="sum")
        return np.abs(np.asarray(used.explain(tf.constant(x), tf.repeat(targets, len(x), 0)))[..., 0])

    return explain


def tf_keras_vis(model: keras.Model, method: str) -> Explain:
    from tf_keras_vis.saliency import Saliency
    from tf_keras_vis.utils.model_modifiers import GuidedBackpropagation
    from tf_keras_vis.utils.scores import CategoricalScore

    if method == "integrated_gradients":
        raise Refused("it has no integrated gradients")
    if method == "grad_cam":
        from tf_keras_vis.gradcam import Gradcam

        cam = Gradcam(model, clone=False)
        layer = feature_layer(model).name
        return lambda x, samples: np.asarray(
            cam(CategoricalScore([CLASS_INDEX] * len(x)), x, penultimate_layer=layer, normalize_cam=False)
        )
    modifier = GuidedBackpropagation() if method == "guided" else None
    explainer = Saliency(model, model_modifier=modifier, clone=method == "guided")

    def explain(x: np.ndarray, samples: int) -> np.ndarray:
        options = {"smooth_samples": samples, "smooth_noise": NOISE_LEVEL} if method == "smooth" else {}
        return explainer(CategoricalScore([CLASS_INDEX] * len(x)), x, normalize_map=False, **options)

    return explain


def pair(model: keras.Model, method: str) -> Explain:
    import saliency.core as saliency

    if method == "guided":
        raise Refused("guided backpropagation is in its TensorFlow 1 part alone, which needs a V1 graph")
    gradient = tf.function(score_gradient(model), autograph=False)

    def call_model(x: np.ndarray, call_model_args: object, expected_keys: object) -> dict[str, np.ndarray]:
        return {saliency.INPUT_OUTPUT_GRADIENTS: gradient(tf.constant(x, tf.float32)).numpy()}

    if method == "grad_cam":
        raise Refused("its Grad-CAM takes the features and gradients that one computes oneself")
    explainer = (
        saliency.IntegratedGradients() if method == "integrated_gradients" else saliency.GradientSaliency()
    )

    def explain_one(image: np.ndarray, samples: int) -> np.ndarray:
        if method == "integrated_gradients":
            return explainer.GetMask(
                image,
                call_model,
                x_baseline=np.zeros_like(image),
                x_steps=samples,
                batch_size=SAMPLES_AT_ONCE,
            )
        if method == "gradients":
            return explainer.GetMask(image, call_model)
        return explainer.GetSmoothedMask(
            image, call_model, stdev_spread=NOISE_LEVEL, nsamples=samples, magnitude=False
        )

    return lambda x, samples: to_map(np.stack([explain_one(image, samples) for image in x]))


PEERS = {"tf.function tape": tape, "xplique": xplique, "tf-keras-vis": tf_keras_vis, "PAIR saliency": pair}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {Path(__file__).name} MODEL.keras INPUTS.npy")
    main()
