"""The signatures of tables: the names of all classes, the defaults and the bounds of all parameters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import tensorflow as tf

from saliency_exporter.contract.checks import assertion, bounds_of, class_bounds, extremes
from saliency_exporter.methods.declarations import CLASS_INDEX, Method
from saliency_exporter.runtime.functions import Function

Range = tuple[float, float]
"""The least and the greatest value of a parameter, both allowed."""


def class_labels(labels: Sequence[str]) -> Function:
    """The signature of class names: `labels`, string [B], of `class_index`, int32 [B]; all by default.

    The input `labels` is there for its default alone: the names of all classes. So they are part of the
    SignatureDef, and a client has them by the call with which it learns the signatures, GetModelMetadata. Of
    a server that returns no defaults it has them by this signature, with one row for each class that it asks
    for. A row of the answer depends on its own row of the request alone: so a server that batches may merge
    and pad requests, and one that limits the rows of a request is asked several times.
    """
    names = tf.constant(labels)
    all_classes = tf.range(len(labels))
    specs = [
        tf.TensorSpec((None,), tf.string, name="labels"),
        tf.TensorSpec((None,), tf.int32, name="class_index"),
    ]

    @tf.function(input_signature=specs, autograph=False)
    def name_classes(labels: tf.Tensor = names, class_index: tf.Tensor = all_classes) -> dict[str, tf.Tensor]:
        inside = (class_index >= 0) & (class_index < tf.size(names))
        first = class_index[tf.argmin(tf.cast(inside, tf.int32))]
        message = ["class_index is ", tf.as_string(first), f"; it must be in [0, {names.shape[0] - 1}]"]
        with tf.control_dependencies([assertion(tf.reduce_all(inside), message)]):
            return {"labels": tf.gather(names, class_index)}

    return name_classes


def parameter_defaults(
    functions: Mapping[str, Function],
) -> Function:
    """The signature of all defaults: one output `<signature>/<parameter>` for each, [B], of its own dtype.

    For clients of a server that returns no defaults with the metadata. The input `rows`, int32 [B], says how
    often each default is wanted; its values are not looked at. So every row of the answer is the same, and a
    server that batches may merge and pad requests.

    Args:
        functions: signatures by name, as `build_signatures` makes them; their defaults are scalars.
    """
    defaults = {
        f"{name}/{parameter.name}": parameter.default
        for name, function in functions.items()
        for parameter in inspect.signature(function.python_function).parameters.values()
        if parameter.default is not inspect.Parameter.empty
    }
    one_row = tf.zeros(1, tf.int32)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.int32, name="rows")], autograph=False)
    def tell_defaults(rows: tf.Tensor = one_row) -> dict[str, tf.Tensor]:
        return {name: tf.fill(tf.shape(rows), value) for name, value in defaults.items()}

    return tell_defaults


def ranges(
    methods: Sequence[Method], *, classes: int, max_samples: int, images: tf.DType
) -> dict[str, Range]:
    """The bounds of every parameter of every method, `class_index` among them, by `<signature>/<parameter>`.

    Args:
        methods: of the export.
        classes: how many the model tells apart.
        max_samples: the export's setting.
        images: the dtype of the images.
    """
    of_class = extremes(class_bounds(classes), "int32")
    return {
        f"{method.signature}/{name}": bounds
        for method in methods
        for name, bounds in [
            (CLASS_INDEX, of_class),
            *((p.name, extremes(bounds_of(p, max_samples, images), p.dtype)) for p in method.parameters),
        ]
    }


def parameter_bounds(ranges: Mapping[str, Range]) -> Function:
    """The signature of all bounds: `bounds`, float64 [B, 2], of `parameter`, string [B]; all by default.

    A row is the least and the greatest value that a parameter takes, both allowed; both are those of its
    dtype where it has no bound, so that every row is finite. float64 holds each int32 and each float32.

    The input `bounds` is there for its default alone: the bounds of all parameters, in the order of the
    default of `parameter`. So they are part of the SignatureDef, as the names of `class_labels` are; a row of
    the answer depends on its own row of the request alone.

    Args:
        ranges: by `<signature>/<parameter>`.
    """
    names = tf.constant(list(ranges))
    table = tf.constant(list(ranges.values()), tf.float64)
    specs = [
        tf.TensorSpec((None,), tf.string, name="parameter"),
        tf.TensorSpec((None, 2), tf.float64, name="bounds"),
    ]

    @tf.function(input_signature=specs, autograph=False)
    def tell_bounds(parameter: tf.Tensor = names, bounds: tf.Tensor = table) -> dict[str, tf.Tensor]:
        is_it = parameter[:, tf.newaxis] == names
        known = tf.reduce_any(is_it, axis=1)
        first = parameter[tf.argmin(tf.cast(known, tf.int32))]
        message = ["parameter is ", first, "; it must be a signature and its parameter, as in "]
        message.append(next(iter(ranges)))
        with tf.control_dependencies([assertion(tf.reduce_all(known), message)]):
            return {"bounds": tf.gather(table, tf.argmax(tf.cast(is_it, tf.int32), axis=1))}

    return tell_bounds
