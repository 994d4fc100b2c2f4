"""The signatures of tables: the names of all classes, and the defaults of all parameters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import tensorflow as tf

from saliency_exporter.contract.checks import assertion
from saliency_exporter.runtime.functions import Function


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
