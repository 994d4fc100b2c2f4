"""The reference of an export: two images, their parameters and what the uncompiled model answers to them.

It is computed in the exporting process by what the same signatures compute, without XLA and without
lowering, and kept beside the model, so that a server's answers can be held against it at any time and on
any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf

from saliency_exporter.contract.examples import parameter_examples, reference_inputs
from saliency_exporter.contract.slices import Core, run_in_slices
from saliency_exporter.methods.declarations import CLASS_INDEX, Method

COMPARED = {
    CLASS_INDEX: "equal",
    "score": "score",
    "probability": "score",
    "logits": "score",
    "probabilities": "score",
    "outputs": "score",
}
"""The outputs that are held against the reference in any signature, and by which measure."""


def reference_path(version_dir: Path) -> Path:
    """Where the reference of a version directory is."""
    return version_dir / "assets.extra" / "saliency_reference.npz"


def inputs_of(
    reference: Mapping[str, np.ndarray], signature: str, names: Iterable[str]
) -> dict[str, np.ndarray]:
    """What the reference asked a signature for: two values of each of its inputs."""
    own = f"{signature}/input/"
    return {name: reference[own + name if own + name in reference else f"input/{name}"] for name in names}


def zero_maps(reference: Mapping[str, np.ndarray], methods: Iterable[Method]) -> list[Method]:
    """The methods whose map is 0 everywhere in the reference: nothing is seen of the model."""
    return [m for m in methods if not np.any(reference[f"{m.signature}/{m.map_kind.output}"])]


@contextmanager
def started_reference(
    cores: Mapping[str, Core],
    batch_sizes: Sequence[int],
    spec: tf.TensorSpec,
    classes: int,
    methods: Iterable[Method],
) -> Iterator[Callable[[], dict[str, np.ndarray]]]:
    """Computes the reference in a thread of its own while the block does something else.

    The cores are traced first, here; only their runs, which leave Python alone, go on beside the block.

    Args:
        cores: by the names of their signatures; without XLA and without lowering.
        batch_sizes: that they run at, ascending.
        spec: of the images, [B, …].
        classes: number of class scores.
        methods: that signatures are of.

    Yields:
        A function that waits for the reference and returns it: inputs as `input/NAME`, those of one signature
        alone as `SIGNATURE/input/NAME`, and outputs as `SIGNATURE/NAME`.
    """
    arrays = {f"input/{name}": value for name, value in reference_inputs(spec, classes).items()}
    kept: dict[str, set[str]] = {}
    for method in methods:
        own = parameter_examples(method, spec).items()
        arrays |= {f"{method.signature}/input/{name}": value for name, value in own}
        verified = {output.name for output in method.outputs if output.verified}
        kept[method.signature] = {method.map_kind.output, *verified, *COMPARED}
    pool = ThreadPoolExecutor(1, thread_name_prefix="reference")
    try:
        runs = {}
        for signature, core in cores.items():
            inputs = inputs_of(arrays, signature, [argument.name for argument in core.input_signature])
            core.get_concrete_function()
            wanted = kept.get(signature, set(COMPARED))
            runs[signature] = pool.submit(_answers, core, batch_sizes, inputs, wanted)

        def finished() -> dict[str, np.ndarray]:
            answers = {
                f"{signature}/{name}": value
                for signature, run in runs.items()
                for name, value in run.result().items()
            }
            return {**arrays, **answers}

        yield finished
    finally:
        # After an error nobody asks for the runs that have not begun.
        pool.shutdown(cancel_futures=True)


def _answers(
    core: Core, batch_sizes: Sequence[int], inputs: Mapping[str, np.ndarray], kept: Container[str]
) -> dict[str, np.ndarray]:
    tensors = {name: tf.constant(value) for name, value in inputs.items()}
    answers = run_in_slices(core, tensors, batch_sizes)
    return {name: value.numpy() for name, value in answers.items() if name in kept}
