"""A batch of any size, run by cores of fixed batch sizes: sliced to the largest, padded to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from saliency_exporter.runtime.functions import Function

Tensors = Mapping[str, tf.Tensor]
Core = Function
"""Inputs [B, …], in order, to outputs [B, …] by name."""


def run_in_slices(core: Core, inputs: Tensors, batch_sizes: Sequence[int]) -> dict[str, tf.Tensor]:
    """Runs a core on a batch of any size with shapes of the given batch sizes alone.

    A slice is as large as the largest size; the last one is padded to the next size by repeating its last
    example. Examples do not see each other, so padding and slicing change a result by rounding alone.

    Args:
        core: function of the inputs' values, in order; every output has the batch as its first dimension.
        inputs: tensors with the same first dimension B ≥ 1.
        batch_sizes: ascending.

    Returns:
        The core's outputs for the B examples.
    """
    sizes = tf.constant(batch_sizes)
    largest = batch_sizes[-1]
    batch = tf.shape(next(iter(inputs.values())))[0]
    specs = core.get_concrete_function().structured_outputs
    names = sorted(specs)
    slices = -(-batch // largest)
    arrays = tuple(
        tf.TensorArray(specs[name].dtype, size=slices, element_shape=specs[name].shape, infer_shape=False)
        for name in names
    )

    def run_slice(
        index: tf.Tensor, arrays: tuple[tf.TensorArray, ...]
    ) -> tuple[tf.Tensor, tuple[tf.TensorArray, ...]]:
        start = index * largest
        count = tf.minimum(largest, batch - start)
        padded = sizes[tf.searchsorted(sizes, count[tf.newaxis])[0]]
        rows = tf.minimum(start + tf.range(padded), batch - 1)
        outputs = core(*(tf.gather(value, rows) for value in inputs.values()))
        return index + 1, tuple(
            array.write(index, outputs[name][:count]) for name, array in zip(names, arrays, strict=True)
        )

    _, arrays = tf.while_loop(
        lambda index, _: index < slices, run_slice, (tf.constant(0), arrays), parallel_iterations=1
    )
    return {name: array.concat() for name, array in zip(names, arrays, strict=True)}
