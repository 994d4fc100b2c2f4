"""SmoothGrad: the mean gradient over noisy copies of the input, with its spread; `smooth(other)`: of any map.

The mean is one of signed maps: what is made of a map, as its saliency, is made of the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.methods.declarations import CLASS_INDEX, Explained, Method, Output, Parameter
from saliency_exporter.methods.kinds import MASKING
from saliency_exporter.methods.model import IMAGES_AT_ONCE, Model, chosen_class
from saliency_exporter.methods.noise import standard_normal
from saliency_exporter.methods.sampling import Step, as_rows, by_example, over_samples, samples_at_once


class Smooth(NamedTuple):
    """The mean of a method's maps at noisy copies of its examples.

    Attributes:
        mean: float32 [B, …], over samples.
        variance: float32 [B, …], unbiased sample variance (VarGrad); NaN where num_samples is 1.
        relative_error: float32 [B], ‖standard error of the mean‖₂ / ‖mean‖₂; NaN where num_samples is 1.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    relative_error: tf.Tensor


def smooth(
    map_of: Callable[..., tf.Tensor],
    shape: Sequence[int],
    x: tf.Tensor,
    given: Sequence[tf.Tensor],
    num_samples: tf.Tensor,
    noise_level: tf.Tensor,
    seed: tf.Tensor,
    *,
    images_at_once: int = IMAGES_AT_ONCE,
) -> Smooth:
    """The mean of a map, as of the gradient ∂S_c/∂x, at x + N(0, σ²) over `num_samples` samples.

    Source: Smilkov et al. 2017, arXiv 1706.03825, section 2; σ = noise_level · (max(x) − min(x)) over the
    example's own input. Mean and variance are running ones, so memory does not grow with the number of
    samples. The variance is VarGrad (Adebayo et al. 2018, arXiv 1810.03292); SmoothGrad² is
    variance · (n − 1)/n + mean².

    Args:
        map_of: model input and what else is given, to the map, float32 [B, *shape].
        shape: of one map.
        x: model input, float32 [B, …].
        given: what else `map_of` takes, each [B], in order; the class first.
        num_samples: int32 [B], ≥ 1.
        noise_level: float32 [B], in [0, 1].
        seed: int32 [B]; the noise of sample i depends on (seed, i) alone.
        images_at_once: how many images a step of the loop may take; of the result it changes rounding alone.
    """
    sigma = noise_level * input_range(x)
    batch = tf.shape(x)[0]
    at_once = samples_at_once(batch, images_at_once)
    rows = [as_rows(values, at_once) for values in given]
    row_seed, copies = as_rows(seed, at_once), as_rows(x, at_once)
    row_sigma = tf.reshape(as_rows(sigma, at_once), (-1,) + (1,) * (x.shape.rank - 1))

    def step(step: Step, mean: tf.Tensor, sum_of_squares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        noisy = copies + row_sigma * standard_normal(row_seed, step.sample, tuple(x.shape[1:]))
        maps = by_example(map_of(noisy, *rows), at_once)
        return merged(step.first, mean, sum_of_squares, maps, step.active)

    nothing = tf.ensure_shape(tf.zeros(tf.concat([[batch], list(shape)], 0)), (None, *shape))
    mean, sum_of_squares = over_samples(num_samples, at_once, step, (nothing, nothing))
    n = tf.cast(num_samples, tf.float32)
    # 0/0 is NaN: the spread of one sample is not known.
    variance = sum_of_squares / tf.reshape(n - 1.0, (-1,) + (1,) * len(shape))
    return Smooth(mean, variance, relative_error(mean, variance, n))


def merged(
    done: tf.Tensor, mean: tf.Tensor, sum_of_squares: tf.Tensor, maps: tf.Tensor, active: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Running mean and sum of squared deviations with a few more samples in them (Chan et al. 1979).

    Args:
        done: int32 scalar, how many samples are in them; of an example that has no active one, at least as
            many as it has asked for.
        mean: float32 [B, …].
        sum_of_squares: float32 [B, …], about the mean.
        maps: float32 [B, S, …], of more samples.
        active: bool [B, S], which of these count; the first ones of an example, or none. The others have to
            be finite.

    Returns:
        The new mean and sum; of an example without active samples, as they were.
    """
    # Products with 0 and 1 in place of selections, and two sums over the samples: uncompiled, each operation
    # is a pass over the memory, and a selection that broadcasts is the slowest of them.
    per_example = (-1,) + (1,) * (mean.shape.rank - 1)
    weight = tf.cast(active, tf.float32)
    more = tf.reduce_sum(weight, axis=1)
    # About the first of them, so that equal samples leave no rounding behind.
    first = maps[:, 0]
    per_sample = tf.concat([tf.shape(weight), [1] * (mean.shape.rank - 1)], 0)
    deviations = (maps - first[:, tf.newaxis]) * tf.reshape(weight, per_sample)
    total, squares = tf.reduce_sum(deviations, axis=1), tf.reduce_sum(tf.square(deviations), axis=1)
    offset = total / tf.reshape(tf.maximum(more, 1.0), per_example)
    squares = tf.maximum(squares - total * offset, 0.0)
    before = tf.cast(done, tf.float32)
    part = tf.reshape(more / (before + more), per_example)
    difference = (first - mean) + offset
    return mean + difference * part, sum_of_squares + squares + tf.square(difference) * (part * before)


def input_range(x: tf.Tensor) -> tf.Tensor:
    """max(x) − min(x) of each example, float32 [B]."""
    axes = list(range(1, x.shape.rank))
    return tf.reduce_max(x, axes) - tf.reduce_min(x, axes)


def relative_error(mean: tf.Tensor, variance: tf.Tensor, n: tf.Tensor) -> tf.Tensor:
    """‖√(variance/n)‖₂ / ‖mean‖₂ of each example, float32 [B]; 0 where the maps do not vary at all."""
    axes = list(range(1, mean.shape.rank))
    standard_error = tf.sqrt(tf.reduce_sum(variance, axes) / n)
    norm = tf.sqrt(tf.reduce_sum(tf.square(mean), axes))
    return tf.where(standard_error == 0.0, 0.0, standard_error / norm)


def explain(model: Model, x: tf.Tensor, parameters: Mapping[str, tf.Tensor]) -> Explained:
    """SmoothGrad of the class's unnormalized score."""
    return _explained(model, x, parameters, model.gradient, tuple(x.shape[1:]))


def _explained(
    model: Model,
    x: tf.Tensor,
    parameters: Mapping[str, tf.Tensor],
    map_of: Callable[..., tf.Tensor],
    shape: Sequence[int],
    names: Sequence[str] = (),
) -> Explained:
    """The mean of maps at noisy copies; class and score are those of the clean image.

    Args:
        model: the model.
        x: model input, float32 [B, …].
        parameters: by name, each [B].
        map_of: model input, class and the named parameters to the map, float32 [B, *shape].
        shape: of one map.
        names: of the parameters that it takes.
    """
    scores = model.scores(x)
    class_index = chosen_class(scores, parameters[CLASS_INDEX])
    given = [class_index, *(parameters[name] for name in names)]
    own = [parameters[parameter.name] for parameter in _PARAMETERS]
    result = smooth(map_of, shape, x, given, *own, images_at_once=model.images_at_once)
    spread = {"variance": result.variance, "relative_error": result.relative_error}
    return Explained(result.mean, scores, class_index, spread)


def over(method: Method) -> Method:
    """The mean of another method's signed map at noisy copies, with its spread.

    It has the parameters of both and is defined where the other is, whose other outputs are dropped.

    Raises:
        ExportError: the other asks for no gradient, or has a parameter or output of the same name.
    """
    _refuse(method)
    names = [parameter.name for parameter in method.parameters]

    def explain(model: Model, x: tf.Tensor, parameters: Mapping[str, tf.Tensor]) -> Explained:
        def map_of(noisy: tf.Tensor, *values: tf.Tensor) -> tf.Tensor:
            return method.explain(model, noisy, dict(zip([CLASS_INDEX, *names], values, strict=True))).map

        given = [CLASS_INDEX, *names]
        specs = [tf.TensorSpec(x.shape, x.dtype)]
        specs += [tf.TensorSpec((None,), parameters[name].dtype) for name in given]
        called = model.in_a_loop(map_of, specs)
        # A coarse map's size is that of the feature layer's grid, which the traced function knows.
        shape = tuple(called.get_concrete_function().structured_outputs.shape[1:])
        return _explained(model, x, parameters, called, shape, names)

    return replace(
        method,
        name=f"{METHOD.name}_{method.name}",
        summary=f"SmoothGrad over `{method.expression}`: the mean of its maps at noisy copies of the input",
        source=f"{METHOD.source}; of the maps: {method.source}",
        explain=explain,
        parameters=(*method.parameters, *_PARAMETERS),
        outputs=METHOD.outputs,
        options=(),
        with_options=None,
        over=None,
    )


def _refuse(method: Method) -> None:
    """Refuses a method that there is no SmoothGrad of.

    Raises:
        ExportError: it is one.
    """
    smoothed, inner = f"{METHOD.name}({method.expression})", method.expression
    hint = f"ask for {inner} itself"
    if not method.needs_gradients or method.kind == MASKING.name:
        raise ExportError(
            f"{smoothed}: {inner} takes no gradient, and SmoothGrad is a mean over gradients and what "
            "is made of them",
            hint=hint,
        )
    taken = {parameter.name for parameter in _PARAMETERS}
    both = [parameter.name for parameter in method.parameters if parameter.name in taken]
    if both:
        raise ExportError(
            f"{smoothed}: {METHOD.name} and {inner} both have the parameters {', '.join(both)}, which a call "
            "could not tell apart",
            hint=hint,
        )


_PARAMETERS = (
    Parameter(
        "num_samples",
        "int32",
        default=50,
        examples=(2, 3),
        low=1,
        high="max_samples",
        help="number of noisy copies of each image",
    ),
    Parameter(
        "noise_level",
        "float32",
        default=0.15,
        examples=(0.1, 0.2),
        low=0,
        high=1,
        help="standard deviation of the noise over max(x) − min(x) of the model input x",
    ),
    Parameter(
        "seed",
        "int32",
        default=0,
        examples=(11, 7),
        help="seed of the noise; the same seed gives the same noise",
    ),
)

METHOD = Method(
    name="smooth",
    kind="sensitivity",
    summary="SmoothGrad: the mean of the gradients at noisy copies of the model input, with its spread",
    source="Smilkov et al. 2017, arXiv 1706.03825, section 2; variance: VarGrad, arXiv 1810.03292",
    explain=explain,
    parameters=_PARAMETERS,
    outputs=(
        Output(
            "variance",
            per="map",
            help="unbiased sample variance of the map over the noise; NaN for one sample",
            verified=False,
        ),
        Output(
            "relative_error",
            per="example",
            help="norm of the mean's standard error over the norm of the mean; NaN for one sample",
        ),
    ),
    over=over,
)
