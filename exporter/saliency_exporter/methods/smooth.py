"""SmoothGrad: the mean gradient over noisy copies of the input, with its spread; `smooth(other)`: of any map.

The mean is one of signed maps: what is made of a map, as its saliency, is made of the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.methods.accuracy import (
    TARGET_ERROR,
    merged,
    outputs,
    parameters,
    relative_error,
    squared_differences,
    squared_error_of_pairs,
    total,
    variance_of,
)
from saliency_exporter.methods.declarations import CLASS_INDEX, Explained, Method, Output, Parameter
from saliency_exporter.methods.kinds import MASKING
from saliency_exporter.methods.model import IMAGES_AT_ONCE, Model, chosen_class
from saliency_exporter.methods.noise import opposite_pairs, standard_normal
from saliency_exporter.methods.sampling import Step, as_rows, by_example, samples_at_once, until_accurate

_Moments = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
"""Mean, sum of squares and squared differences of pairs."""


class Smooth(NamedTuple):
    """The mean of a method's maps at noisy copies of its examples.

    Attributes:
        mean: float32 [B, …], over samples.
        variance: float32 [B, …], sample variance (VarGrad); NaN for one sample.
        relative_error: float32 [B], see `accuracy.relative_error`.
        standard_error: float32 [B], the norm of the mean's; NaN for one pair of samples.
        samples_used: int32 [B], how many samples these are of.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    relative_error: tf.Tensor
    standard_error: tf.Tensor
    samples_used: tf.Tensor


def smooth(
    map_of: Callable[..., tf.Tensor],
    shape: Sequence[int],
    x: tf.Tensor,
    given: Sequence[tf.Tensor],
    num_samples: tf.Tensor,
    noise_level: tf.Tensor,
    seed: tf.Tensor,
    first_sample: tf.Tensor,
    target_error: tf.Tensor,
    *,
    images_at_once: int = IMAGES_AT_ONCE,
) -> Smooth:
    """The mean of a map, as of the gradient ∂S_c/∂x, at x + N(0, σ²) over `num_samples` samples.

    Source: Smilkov et al. 2017, arXiv 1706.03825, section 2; σ = noise_level · (max(x) − min(x)) over the
    example's own input. Samples come in pairs of opposite noise (Hammersley and Morton 1956): each has the
    distribution that the paper asks for, and their mean needs fewer of them (tests/benchmarks/results has by
    how many). So the standard error is one of pairs. Mean and variance are running ones, so memory does not
    grow with the number of samples. The variance is VarGrad (Adebayo et al. 2018, arXiv 1810.03292), of all
    samples about their mean, so SmoothGrad² is variance · (n − 1)/n + mean².

    Args:
        map_of: model input and what else is given, to the map, float32 [B, *shape].
        shape: of one map.
        x: model input, float32 [B, …].
        given: what else `map_of` takes, each [B], in order; the class first.
        num_samples: int32 [B], ≥ 1.
        noise_level: float32 [B], in [0, 1].
        seed: int32 [B].
        first_sample: int32 [B], ≥ 0; the noise of sample i is a function of (seed, first_sample + i) alone.
            From an odd one, pairs are parted: the error is then taken for larger than it is.
        target_error: float32 [B], ≥ 0: an example is done at a relative error of at most this; 0 for all
            samples.
        images_at_once: how many images a step of the loop may take, but for a pair of each example; of the
            result it changes rounding alone.
    """
    sigma = noise_level * input_range(x)
    batch = tf.shape(x)[0]
    at_once = samples_at_once(batch, images_at_once, least=2)
    rows = [as_rows(values, at_once) for values in given]
    row_seed, row_first, copies = (as_rows(values, at_once) for values in (seed, first_sample, x))

    def per_row(values: tf.Tensor) -> tf.Tensor:
        return tf.reshape(values, (-1,) + (1,) * (x.shape.rank - 1))

    row_sigma = per_row(as_rows(sigma, at_once))

    def step(step: Step, mean: tf.Tensor, squares: tf.Tensor, differences: tf.Tensor) -> _Moments:
        draw, sign = opposite_pairs(row_first + step.sample)
        noise = standard_normal(row_seed, draw, tuple(x.shape[1:]))
        # The sign is part of what noise is multiplied by, one number a row.
        maps = by_example(map_of(copies + row_sigma * per_row(sign) * noise, *rows), at_once)
        mean, squares = merged(step.first, mean, squares, maps, step.active)
        return mean, squares, differences + squared_differences(maps, step.active)

    def error(n: tf.Tensor, mean: tf.Tensor, squares: tf.Tensor, differences: tf.Tensor) -> tf.Tensor:
        return relative_error(mean, squared_error_of_pairs(total(squares), differences, n), n)

    nothing = tf.ensure_shape(tf.zeros(tf.concat([[batch], list(shape)], 0)), (None, *shape))
    before = (nothing, nothing, tf.zeros_like(noise_level))
    used, moments = until_accurate(num_samples, target_error, at_once, step, before, error)
    mean, squares, differences = moments
    return Smooth(
        mean,
        variance_of(squares, used),
        error(used, *moments),
        tf.sqrt(squared_error_of_pairs(total(squares), differences, used)),
        used,
    )


def input_range(x: tf.Tensor) -> tf.Tensor:
    """max(x) − min(x) of each example, float32 [B]."""
    axes = list(range(1, x.shape.rank))
    return tf.reduce_max(x, axes) - tf.reduce_min(x, axes)


def explain(model: Model, x: tf.Tensor, parameters: Mapping[str, tf.Tensor]) -> Explained:
    """SmoothGrad of the class's unnormalized score."""
    return _explained(model, x, parameters, model.of_samples.gradient, tuple(x.shape[1:]))


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
    outputs = {
        "variance": result.variance,
        "relative_error": result.relative_error,
        "standard_error": result.standard_error,
        "samples_used": result.samples_used,
    }
    return Explained(result.mean, scores, class_index, outputs)


def over(method: Method) -> Method:
    """The mean of another method's signed map at noisy copies, with its spread.

    It has the parameters of both and is defined where the other is, whose other outputs are dropped. A
    `target_error` of the other is held at its default: the call's is that of the mean.

    Raises:
        ExportError: the other asks for no gradient, or has a parameter or output of the same name.
    """
    _refuse(method)
    taken = [parameter for parameter in method.parameters if parameter.name != TARGET_ERROR]
    held = [parameter for parameter in method.parameters if parameter.name == TARGET_ERROR]
    names = [parameter.name for parameter in taken]

    def explain(model: Model, x: tf.Tensor, parameters: Mapping[str, tf.Tensor]) -> Explained:
        of_samples = model.of_samples

        def map_of(noisy: tf.Tensor, *values: tf.Tensor) -> tf.Tensor:
            given = dict(zip([CLASS_INDEX, *names], values, strict=True))
            rows = tf.shape(noisy)[:1]
            given |= {p.name: tf.fill(rows, tf.constant(p.default, p.dtype)) for p in held}
            return method.explain(of_samples, noisy, given).map

        given = [CLASS_INDEX, *names]
        specs = [tf.TensorSpec(x.shape, x.dtype)]
        specs += [tf.TensorSpec((None,), parameters[name].dtype) for name in given]
        called = of_samples.in_a_loop(map_of, specs)
        # A coarse map's size is that of the feature layer's grid, which the traced function knows.
        shape = tuple(called.get_concrete_function().structured_outputs.shape[1:])
        return _explained(model, x, parameters, called, shape, names)

    return replace(
        method,
        name=f"{METHOD.name}_{method.name}",
        summary=f"SmoothGrad over `{method.expression}`: the mean of its maps at noisy copies of the input",
        source=f"{METHOD.source}; of the maps: {method.source}",
        explain=explain,
        parameters=(*taken, *_PARAMETERS),
        outputs=METHOD.outputs,
        sampled=True,
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
    taken = {parameter.name for parameter in _PARAMETERS} - {TARGET_ERROR}
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
    *parameters("sample", "the noise"),
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
            help="sample variance of the map over the samples; NaN for one sample",
            verified=False,
        ),
        *outputs("sample", alone="one pair of samples"),
    ),
    sampled=True,
    over=over,
)
