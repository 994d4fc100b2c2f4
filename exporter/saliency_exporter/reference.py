"""The reference of an export: two images, their parameters and what the uncompiled model answers to them.

It is computed in the exporting process by the same signatures without XLA and without lowering, and kept
beside the model, so that a server's answers can be held against it at any time and on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf

# Example 0 asks for the predicted class, example 1 for a given one; everything else differs too, so that an
# answer that mixes up examples or parameters cannot be right.
_PARAMETERS = {
    "num_samples": np.array([2, 3], np.int32),
    "noise_level": np.array([0.1, 0.2], np.float32),
    "seed": np.array([11, 7], np.int32),
}
KEPT_OUTPUTS = ("gradients", "class_index", "score", "probability", "relative_error", "logits", "outputs")
EXAMPLES = 2


def reference_path(version_dir: Path) -> Path:
    """Where the reference of a version directory is."""
    return version_dir / "assets.extra" / "saliency_reference.npz"


def reference_inputs(spec: tf.TensorSpec, classes: int) -> dict[str, np.ndarray]:
    """Two images and the parameters of every signature, each of length 2.

    The images are smooth random patterns with a little noise, 0..255 or −1..1: like photos, they leave a
    network's rectifiers partly open.
    """
    rng = np.random.default_rng(20260101)
    shape = spec.shape[1:].as_list()
    coarse = rng.normal(size=(EXAMPLES, *(max(2, -(-size // 16)) for size in shape[:-1]), shape[-1]))
    pattern = coarse
    for axis, size in enumerate(shape[:-1], start=1):
        positions = np.linspace(0, pattern.shape[axis] - 1, size)
        low = np.minimum(positions.astype(int), pattern.shape[axis] - 2)
        weight = (positions - low).reshape([-1 if a == axis else 1 for a in range(pattern.ndim)])
        pattern = pattern.take(low, axis) * (1 - weight) + pattern.take(low + 1, axis) * weight
    pattern = np.clip(0.35 * pattern + 0.02 * rng.normal(size=pattern.shape), -1, 1)
    images = (pattern + 1) * 127.5 if spec.dtype == tf.uint8 else pattern
    return {
        "images": images.astype(spec.dtype.as_numpy_dtype),
        "class_index": np.array([-1, classes // 2], np.int32),
        **_PARAMETERS,
    }


@contextmanager
def started_reference(
    signatures: Mapping[str, tf.types.experimental.PolymorphicFunction],
    spec: tf.TensorSpec,
    classes: int,
) -> Iterator[Callable[[], dict[str, np.ndarray]]]:
    """Compute the reference in a thread of its own while the block does something else.

    The signatures are traced first, here; only their runs, which leave Python alone, go on beside the block.

    Args:
        signatures: by name; without XLA and without lowering.
        spec: of the images, [B, …].
        classes: number of class scores.

    Yields:
        A function that waits for the reference and returns it: inputs as `input/NAME` and, by signature,
        outputs as `SIGNATURE/NAME`.
    """
    inputs = reference_inputs(spec, classes)
    pool = ThreadPoolExecutor(1, thread_name_prefix="reference")
    try:
        runs = {
            signature: pool.submit(
                _answers,
                function.get_concrete_function(),
                [tf.constant(inputs[argument.name]) for argument in function.input_signature],
            )
            for signature, function in signatures.items()
        }

        def finished() -> dict[str, np.ndarray]:
            arrays = {f"input/{name}": value for name, value in inputs.items()}
            for signature, run in runs.items():
                arrays |= {f"{signature}/{name}": value for name, value in run.result().items()}
            return arrays

        yield finished
    finally:
        # After an error nobody asks for the runs that have not begun.
        pool.shutdown(cancel_futures=True)


def _answers(
    function: tf.types.experimental.ConcreteFunction, inputs: Sequence[tf.Tensor]
) -> dict[str, np.ndarray]:
    outputs = function(*inputs)
    return {name: outputs[name].numpy() for name in KEPT_OUTPUTS if name in outputs}
