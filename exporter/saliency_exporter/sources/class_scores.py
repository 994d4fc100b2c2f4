"""What a model returns: one tensor of class scores, chosen by name and position where there are several."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tensorflow as tf

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.runtime.inlined import read_only

_NOT_OF_A_GRAPH = (AttributeError, NotImplementedError, TypeError)

_SIZE = "is the size right? See --image-size and --input-shape"
_TENSOR = (
    "it is called with one tensor; if it takes a mapping or several, export a function of the one that is "
    'explained, as module:function, such as def f(x): return model({"image": x})'
)

MEAN_OF_POSITIONS = "mean_of_positions"
"""Name of the op for the mean that `--output NAME[mean]` asks for. Where it is a mean of probabilities,
`graph.head` makes it one of class scores."""

_POSITION = re.compile(r"(?P<name>.*)\[(?P<position>[^\[\]]*)\]")


def probe(
    name: str, forward: Callable[[tf.Tensor], Any], input_shape: tuple[int, ...], *, batch: int = 1
) -> Any:
    """Traces a model on examples of zeros, so that it makes its variables and shows its output, and runs it.

    What assigns variables while it runs is traced alone, so that they stay as they are. Where a model cannot
    be traced, whether it runs eagerly says why.

    Args:
        name: the model, for messages.
        forward: float32 [batch, *input_shape] to the model's output.
        input_shape: shape of one example.
        batch: number of examples.

    Returns:
        The output in its nest: tensors that have run, or those of the traced graph.

    Raises:
        ExportError: the model fails on such examples, or runs eagerly alone.
    """
    shape = [batch, *input_shape]
    traced: list[Any] = []

    def tensors_of(x: tf.Tensor) -> list[tf.Tensor]:
        traced.append(forward(x))
        return [leaf for leaf in tf.nest.flatten(traced[-1]) if tf.is_tensor(leaf)]

    try:
        function = tf.function(tensors_of).get_concrete_function(tf.TensorSpec(shape, tf.float32))
        output = traced[-1]
        if read_only(function) is not function:
            return output
        try:
            values = iter(function(tf.zeros(shape)))
        except tf.errors.OpError as error:
            if not isinstance(error, tf.errors.UnimplementedError) and "No OpKernel" not in str(error):
                raise
            # This processor has no kernel, as some have none for channels first: what is exported has.
            return output
        return tf.nest.map_structure(lambda leaf: next(values) if tf.is_tensor(leaf) else leaf, output)
    except Exception as error:
        failure = error
    try:
        forward(tf.zeros(shape))
    except Exception as error:
        # What is no TensorFlow operation fails in a trace before it fails for its own reason.
        told = error if isinstance(failure, _NOT_OF_A_GRAPH) else failure
        raise ExportError(
            f"{name} failed on one example of shape {shape}: {brief(told)}",
            hint=_TENSOR if isinstance(told, TypeError) else _SIZE,
        ) from error
    raise ExportError(
        f"{name} cannot be traced into a TensorFlow graph: {brief(failure)}",
        hint="it must be made of TensorFlow operations, not of NumPy calls; an `if` on a tensor has to be "
        "tf.cond, or in a @tf.function",
    ) from failure


def named_outputs(outputs: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The tensors of a model's output, in any nest, by name.

    Args:
        outputs: what the model returned.
        names: the outputs' own names in their flat order, where the model has such; else the keys of a
            mapping, the fields of a named tuple, and the positions of the rest.
    """
    if names is None and isinstance(outputs, tuple) and hasattr(outputs, "_asdict"):
        outputs = outputs._asdict()
    if isinstance(outputs, Mapping):
        return {str(key): outputs[key] for key in outputs}
    leaves = tf.nest.flatten(outputs)
    return dict(zip(names or map(str, range(len(leaves))), leaves, strict=True))


def of_any_batch(outputs: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """The outputs of a model of a fixed batch with the batch left open, by dtype and shape."""
    return {
        key: tf.TensorSpec([None, *output.shape[1:]], output.dtype)
        if tf.is_tensor(output) and output.shape.rank and output.shape[0] == batch
        else output
        for key, output in outputs.items()
    }


def positions_known(outputs: Any) -> bool:
    """Whether symbolic outputs say how many positions they have; those of an input of any size do not."""
    return all(None not in list(output.shape)[1:-1] for output in tf.nest.flatten(outputs) if _rank(output))


@dataclass(frozen=True)
class ClassScores:
    """Where the class scores are among a model's outputs.

    Attributes:
        name: of the output.
        position: which position of an output [B, positions…, classes]: one index for each axis between the
            batch and the classes, from the end where it is negative; or the mean over all of them.
        rank: of the output; in a graph of TensorFlow 1 the tensor itself may not know it.
    """

    name: str
    position: tuple[int, ...] | Literal["mean"] = ()
    rank: int = 2

    def of(self, outputs: Mapping[str, Any]) -> Any:
        """The class scores, [B, classes], of a model's outputs by name."""
        output = outputs[self.name]
        if self.position == "mean":
            return tf.reduce_mean(output, list(range(1, self.rank - 1)), name=MEAN_OF_POSITIONS)
        if self.rank == 1:
            return output[:, tf.newaxis]
        one_position = (slice(None), *self.position)
        return output[one_position] if self.position else output


def choose_scores(name: str, outputs: Mapping[str, Any], wanted: str | None) -> ClassScores:
    """Where the class scores are: the output that holds one score for each class.

    An output [B, 1, 1, classes] has one position, which need not be chosen. One number for each example, [B],
    is the score of one class.

    Args:
        name: the model, for messages.
        outputs: tensors, or their symbolic stand-ins, by name.
        wanted: the user's choice: NAME, NAME[1], NAME[-1], NAME[3,5] or NAME[mean]; the name may be left out
            where there is one output.

    Raises:
        ExportError: there is no such output or position, none that is float [B, classes], or several and no
            choice.
    """
    if wanted is not None:
        return _wanted(name, outputs, wanted)
    fitting = [key for key, output in outputs.items() if _rank(output) == 2]
    if len(fitting) == 1:
        return ClassScores(fitting[0])
    if fitting:
        raise ExportError(
            f"{name} has several outputs: {', '.join(fitting)}",
            hint=f"choose one with --output NAME: {_listed(outputs, fitting)}",
        )
    if len(outputs) == 1:
        return _wanted(name, outputs, next(iter(outputs)))
    with_positions = [key for key, output in outputs.items() if _rank(output) > 2]
    raise ExportError(
        f"{name} returns {_listed(outputs, outputs) or 'nothing'}; a classifier returns float [B, classes]",
        hint=_by_position(with_positions[0], outputs[with_positions[0]])
        if with_positions
        else "export the model with its classification head",
    )


def _wanted(name: str, outputs: Mapping[str, Any], wanted: str) -> ClassScores:
    key, position = wanted, None
    match = _POSITION.fullmatch(wanted)
    # An output may have brackets in its name.
    if wanted not in outputs and match is not None:
        key, position = match["name"], match["position"]
        if not key and len(outputs) == 1:
            key = next(iter(outputs))
    if key not in outputs:
        raise ExportError(
            f"{name} has no output {key!r}", hint=f"it has {_listed(outputs, outputs) or 'none'}"
        )
    output, rank = outputs[key], _rank(outputs[key])
    returned = f"{name} returns {_described(output) if len(outputs) == 1 else _listed(outputs, [key])}"
    if rank == 0:
        raise ExportError(
            f"{returned}; a classifier returns float [B, classes]",
            hint="keep the batch as the first axis: tf.squeeze without an axis drops a batch of one"
            if _has_no_batch(output)
            else "export the model with its classification head",
        )
    if position is None:
        sizes = list(output.shape)[1:-1]
        if any(size != 1 for size in sizes):
            raise ExportError(
                f"{returned}; class scores are float [B, classes], and this output has several positions",
                hint=f"{_by_position(key, output)}; or export the model with its classification head",
            )
        return ClassScores(key, (0,) * len(sizes), rank)
    if rank < 3:
        raise ExportError(
            f"{returned}, which has no positions to choose from: --output {wanted}",
            hint=f"give --output {key}",
        )
    return ClassScores(key, _position(returned, key, output, position), rank)


def _position(returned: str, key: str, output: Any, text: str) -> tuple[int, ...] | Literal["mean"]:
    """A position that an output has.

    Raises:
        ExportError: the text is none, or the output has no such position.
    """
    if text.strip() == "mean":
        return "mean"
    sizes = list(output.shape)[1:-1]
    try:
        indices = tuple(int(index) for index in text.split(","))
    except ValueError:
        indices = ()
    if len(indices) != len(sizes):
        one = "one index" if len(sizes) == 1 else f"{len(sizes)} indices with commas between"
        raise ExportError(
            f"{returned}; a position of it is {one}, or mean, and not {text!r}",
            hint=_by_position(key, output),
        )
    for index, size in zip(indices, sizes, strict=True):
        if size is not None and not -size <= index < size:
            raise ExportError(
                f"{returned}; index {index} of --output {key}[{text}] is not from {-size} to {size - 1}",
                hint=_by_position(key, output),
            )
    return indices


def _by_position(key: str, output: Any) -> str:
    sizes = list(output.shape)[1:-1]
    first = ",".join("0" for _ in sizes)
    last = ",".join("-1" if size is None else str(size - 1) for size in sizes)
    return (
        f"explain one position, --output '{key}[{first}]' to '{key}[{last}]', or the mean over all of them, "
        f"--output '{key}[mean]'"
    )


def _rank(output: Any) -> int:
    """The number of axes of a tensor of floats with a batch; 0 for anything else."""
    if not hasattr(output, "shape") or not hasattr(output, "dtype"):
        return 0
    if not tf.as_dtype(output.dtype).is_floating or getattr(output.shape, "rank", 0) is None:
        return 0
    return 0 if _has_no_batch(output) else len(output.shape)


def _has_no_batch(output: Any) -> bool:
    """Whether a model gave something else than one row for one example: its batch was squeezed or merged."""
    return isinstance(output, tf.Tensor) and output.shape.rank != 0 and output.shape[0] not in (None, 1)


def _listed(outputs: Mapping[str, Any], keys: Iterable[str]) -> str:
    return "; ".join(f"{key}, {_described(outputs[key])}" for key in keys)


def _described(output: Any) -> str:
    if not hasattr(output, "shape") or not hasattr(output, "dtype"):
        return f"a {type(output).__name__}"
    dtype = tf.as_dtype(output.dtype).name
    if getattr(output.shape, "rank", 0) is None:
        return f"{dtype} of unknown shape"
    sizes = ["any" if size is None else str(size) for size in output.shape]
    if sizes and not _has_no_batch(output):
        sizes[0] = "B"
    return f"{dtype} [{', '.join(sizes)}]" + (" for one example" if _has_no_batch(output) else "")
