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
    largest = batch_sizes[-1]
    batch = tf.shape(next(iter(inputs.values())))[0]
    specs = core.get_concrete_function().structured_outputs
    names = sorted(specs)
    slices = -(-batch // largest)
    # Lists, and slices of shared bounds, as ops: a `tf.TensorArray` and `[:count]` make more of them for each
    # output, and a server optimizes all of them anew for every set of outputs that is asked for.
    shapes = [tf.constant(_as_numbers(specs[name].shape)) for name in names]
    lists = tuple(
        tf.raw_ops.TensorListReserve(
            element_shape=shape, num_elements=slices, element_dtype=specs[name].dtype
        )
        for name, shape in zip(names, shapes, strict=True)
    )

    def run_slice(index: tf.Tensor, lists: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        start = index * largest
        count = tf.minimum(largest, batch - start)
        padded = _next_size(batch_sizes, count)
        rows = tf.minimum(start + tf.range(padded), batch - 1)
        outputs = core(*(tf.gather(value, rows) for value in inputs.values()))
        bounds = tf.constant([0]), count[tf.newaxis], tf.constant([1])
        items = [tf.strided_slice(outputs[name], *bounds) for name in names]
        return index + 1, tuple(
            tf.raw_ops.TensorListSetItem(input_handle=handle, index=index, item=item)
            for handle, item in zip(lists, items, strict=True)
        )

    _, lists = tf.while_loop(
        lambda index, _: index < slices, run_slice, (tf.constant(0), lists), parallel_iterations=1
    )
    no_lengths = tf.constant([], tf.int64)
    return {
        name: tf.raw_ops.TensorListConcatV2(
            input_handle=handle,
            element_shape=shape,
            leading_dims=no_lengths,
            element_dtype=specs[name].dtype,
        ).tensor
        for name, handle, shape in zip(names, lists, shapes, strict=True)
    }


def _next_size(batch_sizes: Sequence[int], count: tf.Tensor) -> tf.Tensor:
    """The least of the sizes that holds `count` examples, [], int32."""
    if len(batch_sizes) == 1:
        return tf.constant(batch_sizes[0])
    sizes = tf.constant(batch_sizes)
    return tf.reduce_min(tf.where(sizes >= count, sizes, batch_sizes[-1]))


def _as_numbers(shape: tf.TensorShape) -> list[int] | int:
    """A shape as TensorFlow's lists take it, −1 for what is not known: of a dimension, or of all of them."""
    return -1 if shape.rank is None else [-1 if size is None else size for size in shape]
