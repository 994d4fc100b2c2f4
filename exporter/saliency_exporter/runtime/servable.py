"""One version directory loaded the way TensorFlow Serving loads it: a V1 Session, feeds to fetches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from saliency_client._contract import DEFAULT_SIGNATURE
from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.grappler import session_config
from saliency_exporter.runtime.tensor_protos import to_array
from saliency_exporter.runtime.version_directories import version_directories

SERVE_TAG = "serve"


TensorValue: TypeAlias = np.ndarray | tensor_pb2.TensorProto
SignatureDefs = Mapping[str, meta_graph_pb2.SignatureDef]
"""Signature name to signature."""


class SessionRun(Protocol):
    """A session's run: feeds by tensor name, the names to fetch, and seconds that the caller will wait."""

    def __call__(  # noqa: D102
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout: float | None = None
    ) -> list[np.ndarray]: ...


class ServableError(ExportError):
    """A call or a load that TensorFlow Serving would answer with this status.

    Attributes:
        code: the status code, numbered as in gRPC and in tf.errors (3 is INVALID_ARGUMENT).
        message: TensorFlow Serving's text.
    """

    def __init__(self, code: int, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.message = message

    @property
    def reason(self) -> str:
        """The message for people: what failed, in one line, without TensorFlow's names for where."""
        if match := _UNCOMPILED.search(self.message):
            return f"XLA cannot compile the op {match['op']}"
        lines = _PLACES.sub("", self.message).splitlines()
        return next((line.strip() for line in lines if line.strip()), self.message)


_UNCOMPILED = re.compile(
    r"Detected unsupported operations when trying to compile .*?: (?P<op>\w+) \(", re.DOTALL
)
_PLACES = re.compile(r"\{\{(?:function_)?node [^}]*\}\} ?|\[\[.*?\]\]")
"""Names of functions and nodes, as TensorFlow writes them into its messages."""


@dataclass(frozen=True)
class RunArguments:
    """What one call hands to Session::Run: tensor names to arrays, tensor names to fetch, their aliases."""

    feeds: Mapping[str, np.ndarray]
    fetches: tuple[str, ...]
    aliases: tuple[str, ...]


class Servable:
    """A loaded version: its signatures and the session that runs them. Safe to call from many threads.

    Attributes:
        version_dir: the directory it was loaded from.
        signature_defs: signature name to SignatureDef, defaults included; also TensorFlow's own
            "__saved_model_init_op".
        session_run: feeds and fetches by tensor name to arrays; batching puts itself around it.
        resources: what `close` ends, the last added first.
    """

    def __init__(
        self,
        session: tf.compat.v1.Session,
        signature_defs: SignatureDefs,
        version_dir: Path,
    ) -> None:
        self._session = session
        self._tensors = _named_tensors(session.graph, signature_defs)
        self.signature_defs: SignatureDefs = MappingProxyType(dict(signature_defs))
        self.version_dir = version_dir
        self.session_run: SessionRun = self._run
        self.resources = ExitStack()
        self.resources.callback(session.close)

    def predict(
        self,
        signature_name: str,
        inputs: Mapping[str, TensorValue],
        output_filter: Sequence[str] = (),
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs one signature as a Predict request does; inputs left out take the signature's defaults.

        Args:
            signature_name: "" means "serving_default".
            inputs: arrays or TensorProtos by input alias. Nothing is cast: a wrong dtype is an error.
            output_filter: the output aliases to compute; none means all.
            timeout: seconds until the caller gives up, which batching looks at; None means never.

        Returns:
            Arrays by output alias; strings as object arrays of bytes.

        Raises:
            ServableError: with TensorFlow Serving's code and text.
        """
        arguments = resolve(self.signature_defs, signature_name, inputs, output_filter)
        outputs = self.session_run(arguments.feeds, arguments.fetches, timeout)
        return dict(zip(arguments.aliases, outputs, strict=True))

    @property
    def session(self) -> tf.compat.v1.Session:
        """What it was loaded into: for what changes the weights of a model that is not served."""
        return self._session

    def close(self) -> None:
        """Frees the session with its variables, and what else is in `resources`."""
        self.resources.close()

    def _run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout: float | None = None
    ) -> list[np.ndarray]:
        # `timeout` is left alone: XLA's programs cannot be interrupted, so a run that has begun ends.
        try:
            # Below Session.run, whose Python layer casts dtypes and checks shapes that Session::Run does not:
            # answers and errors have to be the runtime's own.
            outputs = self._session._call_tf_sessionrun(
                None,
                {self._tensors[name]: array for name, array in feeds.items()},
                [self._tensors[name] for name in fetches],
                [],
                None,
            )
        except tf.errors.OpError as error:
            raise ServableError(error.error_code, error.message) from error
        except KeyError as error:
            raise _invalid(f"FetchOutputs {error.args[0]}: output index too large, must be < 0") from error
        except (TypeError, ValueError) as error:
            raise _invalid(str(error)) from error
        return [np.asarray(output) for output in outputs]


def load_servable(
    version_dir: Path | str, *, intra_op_threads: int = 0, inter_op_threads: int = 0
) -> Servable:
    """Loads a version directory into its own graph and V1 Session, as TensorFlow Serving does.

    Args:
        version_dir: the directory that holds saved_model.pb, such as models/resnet50/1.
        intra_op_threads: threads inside one op; 0 lets TensorFlow choose.
        inter_op_threads: ops side by side; 0 lets TensorFlow choose.

    Raises:
        ServableError: the directory is missing, or is not a loadable SavedModel with the tag "serve".
    """
    version_dir = Path(version_dir)
    if not any((version_dir / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise ServableError(
            tf.errors.NOT_FOUND,
            "Could not find SavedModel .pb or .pbtxt at supplied export directory path: "
            f"{version_dir}. Check that the directory exists and that you have the right permissions for "
            "accessing it.",
            hint=_version_dir_hint(version_dir),
        )
    graph = tf.Graph()
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=intra_op_threads, inter_op_parallelism_threads=inter_op_threads
    )
    session = tf.compat.v1.Session(graph=graph, config=session_config(version_dir, config))
    try:
        with graph.as_default():
            meta_graph = tf.compat.v1.saved_model.loader.load(session, [SERVE_TAG], str(version_dir))
    except BaseException as error:
        session.close()
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise _load_error(error, version_dir) from error
    return Servable(session, meta_graph.signature_def, version_dir)


def resolve(
    signature_defs: SignatureDefs,
    signature_name: str,
    inputs: Mapping[str, TensorValue],
    output_filter: Sequence[str] = (),
) -> RunArguments:
    """Turns a request into the arguments of Session::Run, with the checks and texts of TensorFlow Serving.

    Source: RunPredict and PreProcessPrediction in tensorflow_serving/servables/tensorflow/predict_util.cc,
    GetInputValues in tensorflow/cc/saved_model/util.cc.

    Raises:
        ServableError: FAILED_PRECONDITION for an unknown signature, INVALID_ARGUMENT for the rest.
    """
    signature_name = signature_name or DEFAULT_SIGNATURE
    if signature_name not in signature_defs:
        raise ServableError(
            tf.errors.FAILED_PRECONDITION, f'Serving signature key "{signature_name}" not found.'
        )
    signature = signature_defs[signature_name]
    _check_number_of_inputs(signature, inputs)
    feeds = _input_values(signature, inputs)
    aliases = _output_aliases(signature, output_filter)
    return RunArguments(feeds, tuple(signature.outputs[alias].name for alias in aliases), aliases)


def _named_tensors(graph: tf.Graph, signature_defs: SignatureDefs) -> dict[str, object]:
    """The runtime's handle of every tensor that a signature names; looking one up costs 30 microseconds."""
    infos = [
        info
        for signature in signature_defs.values()
        for info in (*signature.inputs.values(), *signature.outputs.values())
    ]
    # The initialization "signature" names an operation, not a tensor.
    return {
        info.name: graph.get_tensor_by_name(info.name)._as_tf_output() for info in infos if ":" in info.name
    }


def _check_number_of_inputs(
    signature: meta_graph_pb2.SignatureDef, inputs: Mapping[str, TensorValue]
) -> None:
    given, known = set(inputs), set(signature.inputs)
    if len(given) > len(known) or (len(given) < len(known) and not signature.defaults):
        raise _invalid(
            f"input size does not match signature: {len(given)}!={len(known)} "
            f"len({{{_joined(given)}}}) != len({{{_joined(known)}}}). "
            f"Sent extra: {{{_joined(given - known)}}}. Missing but required: {{{_joined(known - given)}}}."
        )


def _input_values(
    signature: meta_graph_pb2.SignatureDef, inputs: Mapping[str, TensorValue]
) -> dict[str, np.ndarray]:
    feeds = {}
    for alias in sorted(signature.inputs):
        feed_name = signature.inputs[alias].name
        if alias in inputs:
            value = inputs[alias]
        elif alias in signature.defaults:
            value = signature.defaults[alias]
        else:
            raise _invalid(
                f"Signature input alias: {alias}(feed name: {feed_name}) not found in request and no default "
                f"value provided. Inputs expected to be in the request {{{_joined(inputs)}}}, or default "
                f"input alias set: {_joined(signature.defaults)}"
            )
        feeds[feed_name] = _to_feed(alias, value)
    used = set(inputs) & set(signature.inputs)
    if len(used) != len(inputs):
        raise _invalid(
            f"Inputs contains invalid name. Used request inputs: {_joined(used)}, "
            f"request input: {_joined(inputs)}"
        )
    return feeds


def _to_feed(alias: str, value: TensorValue) -> np.ndarray:
    if isinstance(value, tensor_pb2.TensorProto):
        try:
            return to_array(value)
        except ValueError as error:
            raise _invalid(f"tensor parsing error: {alias}") from error
    array = np.require(value, requirements="C")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _output_aliases(signature: meta_graph_pb2.SignatureDef, output_filter: Sequence[str]) -> tuple[str, ...]:
    for index, alias in enumerate(output_filter):
        if alias not in signature.outputs:
            raise _invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{{{_joined(signature.outputs)}}}."
            )
        if alias in output_filter[:index]:
            raise _invalid(f"duplicate output tensor alias: {alias}")
    return tuple(output_filter) or tuple(sorted(signature.outputs))


def _invalid(message: str) -> ServableError:
    return ServableError(tf.errors.INVALID_ARGUMENT, message)


def _joined(names: Mapping[str, object] | set[str]) -> str:
    return ",".join(sorted(names))


def _version_dir_hint(version_dir: Path) -> str | None:
    versions = version_directories(version_dir)
    return f"this is a model base path; give one version of it, such as {versions[-1]}" if versions else None


def _load_error(error: BaseException, version_dir: Path) -> ServableError:
    if isinstance(error, tf.errors.OpError):
        code, reason = error.error_code, error.message
    else:
        code, reason = tf.errors.UNKNOWN, str(error)
    return ServableError(
        code,
        f"Cannot load the SavedModel at {version_dir}: {reason}",
        hint="export the model again; a copy that stopped half-way looks like this",
    )
