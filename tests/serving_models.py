"""Small real SavedModels, saved as a user's TensorFlow saves them, and the requests that tests send them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

LABELS = ("ant", "bee", "cat")
WEIGHTS = np.array([[1.0, -2.0, 0.5], [0.0, 1.0, 3.0]], np.float32)


def save_model(version_dir: Path, *, number: float = 1.0) -> Path:
    """Saves one version; `number` tells versions apart: it scales the logits and comes back as `version`."""
    module = tf.Module()
    module.weights = tf.Variable(WEIGHTS * number)
    module.labels = tf.constant(LABELS)
    images = tf.TensorSpec([None, 2], tf.float32, name="images")

    @tf.function(input_signature=[images])
    def serving_default(images):
        logits = images @ module.weights
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    @tf.function(jit_compile=True)
    def score_gradient(images, class_index):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = images @ module.weights
            class_index = tf.where(class_index < 0, tf.argmax(logits, 1, tf.int32), class_index)
            score = tf.gather(logits, class_index, batch_dims=1)
        return tape.gradient(score, images), class_index

    predicted = tf.constant([-1])

    @tf.function(input_signature=[images, tf.TensorSpec([None], tf.int32, name="class_index")])
    def explain(images, class_index=predicted):
        gradients, chosen = score_gradient(images, tf.broadcast_to(class_index, [tf.shape(images)[0]]))
        version = tf.fill([tf.shape(images)[0]], tf.constant(number))
        return {
            "gradients": gradients,
            "class_index": chosen,
            "label": tf.gather(module.labels, chosen),
            "version": version,
        }

    @tf.function(input_signature=[tf.TensorSpec(None, tf.int32, name="rank"), images])
    def scalar(rank, images):
        return {"rank": rank, "images": images}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="seconds")])
    def busy(seconds):
        """Computes for so many seconds: a request that is under way."""
        end = tf.timestamp() + tf.cast(tf.reduce_max(seconds), tf.float64)
        (turns,) = tf.while_loop(
            lambda turns: tf.timestamp() < end, lambda turns: [turns + 1], [tf.constant(0)]
        )
        return {"turns": tf.fill(tf.shape(seconds), turns), "version": tf.fill(tf.shape(seconds), number)}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="block")])
    def echo(block):
        return {"block": block + 0.0}

    functions = {"serving_default": serving_default, "explain": explain}
    functions |= {"scalar": scalar, "busy": busy, "echo": echo}
    tf.saved_model.save(
        module,
        str(version_dir),
        signatures=functions,
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )
    return version_dir


def predict_request(model: str, signature: str = "", *, outputs=(), **inputs) -> predict_pb2.PredictRequest:
    """A request as the official stubs make it, tensors encoded by TensorFlow."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    request.output_filter.extend(outputs)
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return request
