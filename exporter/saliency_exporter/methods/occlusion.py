"""Occlusion: how far the class score drops when a patch of the image is hidden.

The patches lie at equal distances, the first and the last ones reach beyond the image, and their size is a
multiple of their distance: so each pixel is hidden by the same number of patches, c. What a pixel gets is the
mean over these of the patch's drop divided by its number of pixels inside the image. If the score is a sum
of functions of one pixel each, S(x) = Σ f_i(x_i), a drop is the sum of its pixels' own drops, and so the sum
of all shares is S(x) − S(x′) exactly, x′ the gray image. A pixel's share is its own drop where patches are
single pixels, or where the pixels of a patch do not differ in it; elsewhere it is a mean around the pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.forward_graph import ForwardGraph, Replacement
from saliency_exporter.methods.declarations import CLASS_INDEX, Explained, Method, Option, Parameter
from saliency_exporter.methods.hiding import check_hideable
from saliency_exporter.methods.kinds import Sizes
from saliency_exporter.methods.model import Model, chosen_class
from saliency_exporter.methods.sampling import Step, as_rows, by_example, over_samples, samples_at_once

_STRIDES = {1: 16, 2: 16, 3: 6, 4: 3}
"""In how many parts the patches' distance divides an axis, by the image's number of axes.

A patch is twice as long, so that of a picture is an eighth of each side, and there are 17 × 17 of them: as
many forward passes, which 17, 343 and 256 patches of a series, a volume and four axes stay close to."""


class Patches(NamedTuple):
    """Patches along one axis, in pixels."""

    patch: int
    stride: int


Choose = Callable[[Sizes], Sequence[Patches]]
"""Sizes of an image without its channels to the patches along each of its axes."""


def by_size(sizes: Sizes) -> list[Patches]:
    """What is taken where no option is given, see `_STRIDES`."""
    strides = [-(-size // _STRIDES[len(sizes)]) for size in sizes]
    return [Patches(min(2 * stride, size), stride) for size, stride in zip(sizes, strides, strict=True)]


def first_pixels(size: int, patches: Patches) -> np.ndarray:
    """Where the patches along an axis begin, int32 [patches]; each pixel is in patch / stride of them."""
    return np.arange(patches.stride - patches.patch, size, patches.stride, dtype=np.int32)


def explain(choose: Choose, model: Model, x: tf.Tensor, parameters: Mapping[str, tf.Tensor]) -> Explained:
    """The drop of the class score at each patch, spread over the patch's pixels and their channels."""
    patches = choose(model.sizes)
    shape = tuple(x.shape[1:])
    scores_of = model.in_a_loop(model.scores, [tf.TensorSpec((None, *shape), tf.float32)])
    scores = scores_of(x)
    class_index = chosen_class(scores, parameters[CLASS_INDEX])
    drops = _drops(scores_of, x, model.gray(parameters["baseline"]), scores, class_index, patches, model)
    share = _shares(drops, patches, model.sizes)
    if len(shape) > len(model.sizes):
        share = tf.broadcast_to(share[..., tf.newaxis] / shape[-1], tf.shape(x))
    return Explained(tf.ensure_shape(share, x.shape), scores, class_index)


def _drops(
    scores_of: Callable[[tf.Tensor], tf.Tensor],
    x: tf.Tensor,
    gray: tf.Tensor,
    scores: tf.Tensor,
    class_index: tf.Tensor,
    patches: Sequence[Patches],
    model: Model,
) -> tf.Tensor:
    """S_c(x) − S_c(x with the patch gray) of every patch, float32 [*patches along each axis, B]."""
    starts = [first_pixels(size, along) for size, along in zip(model.sizes, patches, strict=True)]
    counts = [len(first) for first in starts]
    total, shape = math.prod(counts), tuple(x.shape[1:])
    batch = tf.shape(x)[0]
    at_once = samples_at_once(batch, model.images_at_once)
    # Axes [B, patches of a step, values]; the model sees the first two as one.
    values, gray = (tf.reshape(images, [batch, 1, math.prod(shape)]) for images in (x, gray))
    clean = tf.gather(scores, class_index, batch_dims=1)[:, tf.newaxis]
    row_class = as_rows(class_index, at_once)

    def step(step: Step, drops: tf.Tensor) -> tuple[tf.Tensor]:
        # The patches are those of every example. Beyond the last one it is the last one again.
        patch = step.sample[:at_once]
        mask = _mask(patch, patches, model.sizes, math.prod(shape[len(patches) :]))
        answers = scores_of(tf.reshape(tf.where(mask, gray, values), [-1, *shape]))
        answers = tf.ensure_shape(answers, (None, scores.shape[-1]))
        answers = by_example(tf.gather(answers, row_class, batch_dims=1), at_once)
        return (tf.tensor_scatter_nd_update(drops, patch[:, tf.newaxis], tf.transpose(clean - answers)),)

    (drops,) = over_samples(tf.fill([batch], total), at_once, step, (tf.zeros([total, batch]),))
    return tf.reshape(drops, [*counts, batch])


def _mask(patch: tf.Tensor, patches: Sequence[Patches], sizes: Sizes, channels: int) -> tf.Tensor:
    """Which values of an image patches hide, bool [S, values]; patches and values are counted in C order.

    Args:
        patch: int32 [S].
        patches: along each axis.
        sizes: of an image without its channels.
        channels: how many values a pixel has.
    """
    mask = None
    for along, size in zip(reversed(patches), reversed(sizes), strict=True):
        starts = first_pixels(size, along)
        first = tf.gather(tf.constant(starts), patch % len(starts))[:, tf.newaxis]
        patch //= len(starts)
        # The last axis with its channels at once: uncompiled, broadcasting over a short last axis takes long.
        pixels = np.repeat(np.arange(size, dtype=np.int32), channels if mask is None else 1)
        inside = (first <= pixels) & (pixels < first + along.patch)
        if mask is None:
            mask = inside
        else:
            mask = inside[:, :, tf.newaxis] & mask[:, tf.newaxis]
            mask = tf.reshape(mask, [-1, mask.shape[1] * mask.shape[2]])
    return mask


def _shares(drops: tf.Tensor, patches: Sequence[Patches], sizes: Sizes) -> tf.Tensor:
    """Each pixel's mean of the drops that it is hidden in, each divided by its patch's pixels, [B, *sizes].

    Both the pixels of a patch and the patches of a pixel are products over the axes, so axis by axis. All
    pixels between one patch's beginning and the next one's are in the same patches. Pooling has no products,
    which a GPU would round.
    """
    for along, size in zip(patches, sizes, strict=True):
        first, rest = first_pixels(size, along), tf.shape(drops)[1:]
        lengths = np.minimum(first + along.patch, size) - np.maximum(first, 0)
        each = tf.reshape(drops, [len(first), -1]) / lengths[:, np.newaxis].astype(np.float32)
        means = tf.nn.avg_pool1d(each[tf.newaxis], along.patch // along.stride, 1, "VALID")[0]
        pixels = tf.repeat(means, along.stride, axis=0)[:size]
        # The axis in front is used up, and that of the pixels comes last.
        drops = tf.reshape(tf.transpose(pixels), tf.concat([rest, [size]], 0))
    return drops


def with_options(options: Mapping[str, int]) -> Method:
    """Occlusion by patches of these sizes along every axis.

    Raises:
        ExportError: the stride does not divide the patch.
    """
    asked = "occlusion(" + ", ".join(f"{name}={value}" for name, value in options.items()) + ")"
    patch = options.get("patch", 2 * options.get("stride", 0))
    stride = options.get("stride", patch // 2 if patch % 2 == 0 else patch)
    if patch % stride:
        near = max(divisor for divisor in range(1, min(stride, patch) + 1) if patch % divisor == 0)
        raise ExportError(
            f"{asked}: the stride, {stride}, does not divide the patch, {patch}: pixels would be hidden "
            "by different numbers of patches, and their shares would not add up",
            hint=f"for example occlusion(patch={patch}, stride={near})",
        )

    def choose(sizes: Sizes) -> list[Patches]:
        return [Patches(patch, stride)] * len(sizes)

    def fitting(graph: ForwardGraph, model: str) -> Sequence[Replacement]:
        check_hideable(graph, model, patch, "occlusion(patch={})")
        return ()

    return replace(
        METHOD, explain=partial(explain, choose), replacements=fitting, facts=partial(facts, choose)
    )


def replacements(graph: ForwardGraph, model: str) -> Sequence[Replacement]:
    """None; refuses a model without places."""
    check_hideable(graph, model)
    return ()


def facts(choose: Choose, graph: ForwardGraph) -> Mapping[str, Any]:
    """The patches and their distances along each axis, in pixels, and the forward passes of a call."""
    patches = choose(graph.sizes)
    counts = [len(first_pixels(size, along)) for size, along in zip(graph.sizes, patches, strict=True)]
    return {
        "patch": [along.patch for along in patches],
        "stride": [along.stride for along in patches],
        "passes": math.prod(counts),
    }


METHOD = Method(
    name="occlusion",
    kind="attribution",
    summary="Occlusion: how far the class score drops when a patch of the image is hidden",
    source="Zeiler and Fergus 2013, arXiv 1311.2901, section 4.2",
    explain=partial(explain, by_size),
    parameters=(
        Parameter(
            "baseline",
            "float32",
            default=0,
            examples=(4.0, 16.0),
            pixel=True,
            help="gray level, in the images' own unit, that a patch is hidden by",
        ),
    ),
    replacements=replacements,
    facts=partial(facts, by_size),
    needs_gradients=False,
    options=(
        Option(
            "patch",
            help="the side of a patch in pixels; by default twice the stride, an eighth of a picture's sides",
        ),
        Option(
            "stride", help="the distance between patches in pixels, a divisor of the patch; by default half"
        ),
    ),
    with_options=with_options,
)
