"""RISE: the mean probability of the class when random parts of the image are kept, at each pixel they keep.

It needs answers of the model alone, and no gradient. The sampling error of a map falls with √num_masks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import tensorflow as tf

from saliency_exporter.graph.forward_graph import ForwardGraph, Replacement
from saliency_exporter.methods.accuracy import (
    contrast,
    merged,
    outputs,
    parameters,
    relative_error,
    squared_error,
    total,
)
from saliency_exporter.methods.declarations import CLASS_INDEX, Explained, Method, Option, Parameter
from saliency_exporter.methods.enlarge import weights_along
from saliency_exporter.methods.hiding import check_hideable
from saliency_exporter.methods.kinds import Sizes
from saliency_exporter.methods.model import Model, chosen_class
from saliency_exporter.methods.noise import random_bits
from saliency_exporter.methods.sampling import Step, as_rows, by_example, samples_at_once, until_accurate

GRID = 7
"""Cells of a mask along each axis (Petsiuk et al. 2018, section 4)."""


def masks(seed: tf.Tensor, sample: tf.Tensor, keep: tf.Tensor, sizes: Sizes, grid: int) -> tf.Tensor:
    """Random masks, float32 [R, *sizes] in [0, 1], each a function of its seed and its number alone.

    Section 3.2 of the paper: a grid whose cells are 1 with probability `keep`, else 0, is enlarged bilinearly
    to one cell more than the image needs, and cut out at a random shift of less than a cell. Cells have
    half-pixel centres, and a mask is constant beyond the outer ones: so the weights of each pixel add up to
    1, and the expected mask is `keep` at every pixel, also at the edges (`keep` to 2⁻²⁴).

    What is random are whole numbers, with the same bits compiled, uncompiled and on every device: those of
    `random_bits`, row by row; first one for each cell in C order, whose high 24 bits over 2²⁴ are compared
    with `keep`, then one for each axis, whose remainder by the cell's size is the shift.

    Args:
        seed: int32 [R].
        sample: int32 [R], the mask's number.
        keep: float32 [R], in (0, 1].
        sizes: of an image without its channels.
        grid: cells along each axis; along a shorter axis, as many as it has pixels.
    """
    cells = [min(grid, size) for size in sizes]
    count = math.prod(cells)
    rows = tf.shape(seed)[0]
    bits = tf.reshape(random_bits(seed, sample, -(-(count + len(cells)) // 2)), [rows, -1])
    high_bits = tf.bitwise.right_shift(tf.bitcast(bits[:, :count], tf.uint32), tf.constant(8, tf.uint32))
    uniform = tf.cast(tf.bitcast(high_bits, tf.int32), tf.float32) * 2.0**-24
    mask = tf.reshape(tf.cast(uniform < keep[:, tf.newaxis], tf.float32), [rows, *cells])
    # The last axis first, so that a product never has to turn what is large.
    for axis in reversed(range(len(sizes))):
        cell = cell_size(sizes[axis], cells[axis])
        shift = tf.math.floormod(bits[:, count + axis], cell)
        weights = tf.constant(weights_along(cells[axis], (cells[axis] + 1) * cell), tf.float32)
        own = tf.gather(weights, shift[:, tf.newaxis] + tf.range(sizes[axis]))
        before, behind = math.prod(cells[:axis]), math.prod(sizes[axis + 1 :])
        mask = own[:, tf.newaxis] @ tf.reshape(mask, [rows, before, cells[axis], behind])
    return tf.ensure_shape(tf.reshape(mask, [rows, *sizes]), (None, *sizes))


def cell_size(size: int, cells: int) -> int:
    """Pixels from one shift to the next full cell: so many that the cells cover an axis."""
    return -(-size // cells)


def explain(grid: int, model: Model, x: tf.Tensor, parameters: Mapping[str, tf.Tensor]) -> Explained:
    """The mean over masks M of p_c(x ⊙ M) · M / E[M] (section 3.1 of the paper), with the error of that mean.

    Class, score and probability are those of the clean image. The mean and the variance are running ones, so
    memory does not grow with the number of masks.
    """
    keep = parameters["keep"]
    shape, sizes = tuple(x.shape[1:]), model.sizes
    specs, of_samples = [tf.TensorSpec((None, *shape), tf.float32)], model.of_samples
    scores_of = model.in_a_loop(model.scores, specs)
    scores = scores_of(x)
    if of_samples is not model:
        scores_of = of_samples.in_a_loop(of_samples.scores, specs)
    class_index = chosen_class(scores, parameters[CLASS_INDEX])
    batch = tf.shape(x)[0]
    at_once = samples_at_once(batch, model.images_at_once)
    each = (parameters["seed"], parameters["first_sample"], keep, class_index)
    seeds, firsts, keeps, classes = (as_rows(part, at_once) for part in each)
    # Axes [B, masks of a step, values]; the model sees the first two as one.
    pixels, values = math.prod(sizes), math.prod(shape)
    clean = tf.reshape(x, [batch, 1, values])

    def step(step: Step, *moments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        mask = masks(seeds, firsts + step.sample, keeps, sizes, grid)
        # Uncompiled, repeated and then multiplied is less than half of a product that broadcasts channels.
        of_values = tf.repeat(tf.reshape(mask, [batch, at_once, pixels]), values // pixels, axis=-1)
        answers = scores_of(tf.reshape(clean * of_values, [-1, *shape]))
        answers = model.probabilities(tf.ensure_shape(answers, (None, scores.shape[-1])))
        weight = tf.gather(answers, classes, batch_dims=1) / keeps
        importance = by_example(mask * tf.reshape(weight, per_mask), at_once)
        mean, squares, level, level_squares = moments
        mean, squares = merged(step.first, mean, squares, importance, step.active)
        levels = tf.reduce_mean(importance, list(range(2, importance.shape.rank)))
        return mean, squares, *merged(step.first, level, level_squares, levels, step.active)

    def error_squared(n: tf.Tensor, *moments: tf.Tensor) -> tf.Tensor:
        # The variance of (mask's map − its level), summed over pixels, is the map's less theirs of the level.
        _, squares, _, level_squares = moments
        return squared_error(tf.maximum(total(squares) - pixels * level_squares, 0.0), n)

    def error(n: tf.Tensor, *moments: tf.Tensor) -> tf.Tensor:
        mean = moments[0]
        return relative_error(mean, error_squared(n, *moments), n, contrast(mean))

    per_mask = [-1, *(1 for _ in sizes)]
    nothing = tf.ensure_shape(tf.zeros([batch, *sizes]), (None, *sizes))
    no_level = tf.zeros_like(keep)
    before = (nothing, nothing, no_level, no_level)
    used, moments = until_accurate(
        parameters["num_masks"], parameters["target_error"], at_once, step, before, error
    )
    spread = {
        "relative_error": error(used, *moments),
        "standard_error": tf.sqrt(error_squared(used, *moments)),
        "samples_used": used,
    }
    return Explained(moments[0], scores, class_index, spread)


def facts(grid: int, graph: ForwardGraph) -> Mapping[str, Any]:
    """The cells of a mask along each axis."""
    return {"grid": [min(grid, size) for size in graph.sizes]}


def with_options(options: Mapping[str, int]) -> Method:
    """RISE with masks of another grid."""
    grid = options["grid"]

    def fitting(graph: ForwardGraph, model: str) -> Sequence[Replacement]:
        check_hideable(graph, model, grid, "rise(grid={})")
        return ()

    return replace(METHOD, explain=partial(explain, grid), replacements=fitting, facts=partial(facts, grid))


def replacements(graph: ForwardGraph, model: str) -> Sequence[Replacement]:
    """None; refuses a model without places."""
    check_hideable(graph, model)
    return ()


METHOD = Method(
    name="rise",
    kind="masking",
    summary="RISE: the mean probability of the class over random masks, at each pixel that they keep",
    source="Petsiuk, Das, Saenko 2018, arXiv 1806.07421, section 3.1; masks: section 3.2",
    explain=partial(explain, GRID),
    parameters=(
        Parameter(
            "num_masks",
            "int32",
            default=2000,
            examples=(2, 3),
            low=1,
            high="max_masks",
            help="number of random masks, each a forward pass",
        ),
        Parameter(
            "keep",
            "float32",
            default=0.5,
            examples=(0.5, 0.7),
            low=0.01,
            high=1,
            help="probability that a cell of a mask keeps the model input; elsewhere it goes to 0",
        ),
        Parameter(
            "seed",
            "int32",
            default=0,
            examples=(11, 7),
            help="seed of the masks; the same seed gives the same masks",
        ),
        *parameters("mask", "the bits"),
    ),
    outputs=outputs("mask", of="map, less its mean over pixels,", alone="one mask"),
    replacements=replacements,
    facts=partial(facts, GRID),
    needs_gradients=False,
    sampled=True,
    options=(
        Option(
            "grid",
            help=f"cells of a mask along each axis; by default {GRID}, or as many as an axis has pixels",
        ),
    ),
    with_options=with_options,
)
