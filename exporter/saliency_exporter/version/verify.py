"""Loads a version directory as TensorFlow Serving does and holds every signature against the reference."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from saliency_client._contract import CLASS_LABELS, PARAMETER_BOUNDS, PARAMETER_DEFAULTS
from saliency_exporter.contract.build import PREDICTED_CLASS
from saliency_exporter.contract.checks import Bounds, extremes
from saliency_exporter.errors import ExportError
from saliency_exporter.methods.declarations import CLASS_INDEX, SHARED_OUTPUTS
from saliency_exporter.methods.kinds import KINDS
from saliency_exporter.runtime.servable import Servable, ServableError, load_servable
from saliency_exporter.runtime.tensor_protos import to_array
from saliency_exporter.version.kept import kept_problems
from saliency_exporter.version.manifest import Manifest, Verification, VerifiedCall, read_manifest
from saliency_exporter.version.reference import COMPARED, inputs_of, reference_path
from saliency_exporter.version.tolerances import MOST, Tolerances, tolerances
from saliency_exporter.version.warmup import read_warmup

SALIENCY_TOLERANCE = 1e-4
"""Bound of ‖saliency − max|gradients|‖₂ / ‖max|gradients|‖₂ within one answer.

Both are made of one gradient, but a compiler may compute its last steps once for each, with and without fused
multiplication and addition: a sum of thousands of products differs by some 10⁻⁶ then. A sum in place of the
maximum, a sign or another example leaves 0.1 and more."""

_MOST_THREADS = 4
"""So many warmup records run side by side at most: each holds a batch and a compiler in memory."""

_ROWS = 3
"""In a request for defaults: more than one, to see that every row is the same."""


@dataclass(frozen=True)
class Row:
    """One line of a verification: a signature at a batch size.

    Attributes:
        signature: its name.
        batch_size: number of images in the request.
        first_ms: milliseconds of the first call, compilation included; others ran beside it.
        ms: milliseconds of the last call, with everything compiled.
        score_error: the largest, as `tolerances.SCORE_TOLERANCE` measures; 0 without scores.
        gradient_error: the largest, as `tolerances.GRADIENT_TOLERANCE` measures; 0 without maps.
        problem: what is wrong, or "".
        outliers: examples of the reference whose maps are beyond the bound that one of them may exceed.
    """

    signature: str
    batch_size: int
    first_ms: float
    ms: float
    score_error: float
    gradient_error: float
    problem: str = ""
    outliers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Report:
    """The outcome of a verification.

    Attributes:
        rows: one for each signature and batch size.
        problems: everything that is wrong; empty for a good export.
        warmup_records: how many warmup records ran; their answers are compared as well.
        tolerances: the bounds that answers were held to.
    """

    rows: tuple[Row, ...]
    problems: tuple[str, ...]
    warmup_records: int
    tolerances: Tolerances

    def to_manifest(self) -> Verification:
        """What the manifest records of it."""
        return Verification(
            passed=not self.problems,
            warmup_records=self.warmup_records,
            score_tolerance=self.tolerances.score,
            gradient_tolerance=self.tolerances.gradient,
            outlier_tolerance=self.tolerances.outlier,
            rows=tuple(
                VerifiedCall(r.signature, r.batch_size, r.first_ms, r.ms, r.score_error, r.gradient_error)
                for r in self.rows
            ),
        )


def verify(
    version_dir: Path,
    *,
    progress: Callable[[Row], None] = lambda row: None,
    step: Callable[[str], None] = lambda words: None,
) -> Report:
    """Verifies a version directory.

    Every warmup record runs, several side by side, which compiles every signature at every batch size; then
    every signature at every compiled batch size and at one more than the largest, with examples that ask for
    different things in one batch, in another order than in the records. Defaults, dtypes and error codes are
    checked as well.

    Args:
        version_dir: the directory of one version.
        progress: called with each row as it is done.
        step: called with one line before what takes long and has no rows.

    Raises:
        ExportError: the directory is not an exported version or cannot be loaded.
    """
    manifest = read_manifest(version_dir)
    reference = _read_reference(version_dir)
    servable = load_servable(version_dir)
    try:
        problems = list(_contract_problems(servable, manifest))
        problems += kept_problems(servable, manifest.kept_signatures, reference)
        rows: list[Row] = []
        requests: list[predict_pb2.PredictRequest] = []
        replays: list[_RecordRun] = []
        if not problems:
            requests = list(read_warmup(version_dir))
            running = "running" if manifest.compile == "none" else "compiling and running"
            step(f"{running} {len(requests)} warmup records")
            replays = _record_runs(servable, manifest, reference, requests)
            for row in _rows(servable, manifest, reference, _first_ms(requests, replays)):
                rows.append(row)
                progress(row)
            problems += [
                f"{r.signature} at batch size {r.batch_size}: {r.problem}" for r in rows if r.problem
            ]
        if not problems:
            problems += _refusal_problems(servable, manifest, reference)
            for number, (request, replay) in enumerate(zip(requests, replays, strict=True), 1):
                signature = request.model_spec.signature_name
                if problem := replay.problem or _record_problem(replay.errors, signature, rows, manifest):
                    problems.append(f"warmup record {number} ({signature}): {problem}")
    finally:
        servable.close()
    return Report(tuple(rows), tuple(problems), len(replays), tolerances(manifest.rounding))


def _read_reference(version_dir: Path) -> dict[str, np.ndarray]:
    path = reference_path(version_dir)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(
            f"{path} cannot be read: {error}",
            hint="export the model again; without it nothing can be compared",
        ) from error


def _signatures(manifest: Manifest) -> list[str]:
    return [manifest.predictions, *manifest.by_signature]


def _contract_problems(servable: Servable, manifest: Manifest) -> Iterator[str]:
    """What a client relies on before its first call: names, dtypes, defaults."""
    for name in _signatures(manifest):
        if name not in servable.signature_defs:
            yield f"signature {name} is missing"
            continue
        signature = servable.signature_defs[name]
        images = signature.inputs.get("images")
        if images is None or tf.as_dtype(images.dtype).name != manifest.input.dtype:
            yield f"{name} has no input images of dtype {manifest.input.dtype}"
        if name == manifest.predictions:
            continue
        method = manifest.by_signature[name]
        outputs = {method.map, *(output.name for output in method.outputs), *SHARED_OUTPUTS}
        outputs -= {"label"} if manifest.labels is None else set()
        if set(signature.outputs) != outputs:
            yield f"{name} has the outputs {sorted(signature.outputs)}, not {sorted(outputs)}"
        for output in method.outputs:
            given = signature.outputs.get(output.name)
            if given is not None and (dtype := tf.as_dtype(given.dtype).name) != output.dtype:
                yield f"{name} has the output {output.name} of dtype {dtype}, not {output.dtype}"
        defaults = {CLASS_INDEX: PREDICTED_CLASS, **{p.name: p.default for p in method.parameters}}
        if set(signature.inputs) != {"images", *defaults}:
            yield f"{name} has the inputs {sorted(signature.inputs)}, not {sorted({'images', *defaults})}"
        for parameter in set(signature.inputs) & set(defaults):
            if parameter not in signature.defaults:
                yield f"{name} has no default for {parameter} in its SignatureDef"
                continue
            value = tf.make_ndarray(signature.defaults[parameter])
            if not np.allclose(value, defaults[parameter]):
                yield f"{name} has the default {value} for {parameter}, not {defaults[parameter]}"

    yield from _table_problems(servable, manifest)


def _table_problems(servable: Servable, manifest: Manifest) -> Iterator[str]:
    """What a client relies on where the server returns no defaults, and where it does: names and defaults."""
    labels = manifest.labels
    if labels is not None and (
        _default_names(servable) != list(labels) or _called_names(servable, labels) != list(labels)
    ):
        yield f"signature {CLASS_LABELS} does not tell the class names of the manifest"

    expected = {
        f"{name}/{parameter}": [tf.make_ndarray(value)[()]] * _ROWS
        for name in _signatures(manifest)
        if name in servable.signature_defs
        for parameter, value in servable.signature_defs[name].defaults.items()
    }
    yield from _bounds_problems(servable, manifest)
    try:
        table = servable.predict(PARAMETER_DEFAULTS, {"rows": np.zeros(_ROWS, np.int32)})
    except ServableError as error:
        yield f"signature {PARAMETER_DEFAULTS} fails: {error}"
        return
    if table.keys() != expected.keys():
        yield f"{PARAMETER_DEFAULTS} has the outputs {sorted(table)}, not {sorted(expected)}"
        return
    for name, values in expected.items():
        told, wanted = table[name].tolist(), [value.item() for value in values]
        if table[name].dtype != values[0].dtype or told != wanted:
            yield f"{PARAMETER_DEFAULTS} tells {table[name].dtype} {told} for {name}, not {wanted}"


def _bounds_problems(servable: Servable, manifest: Manifest) -> Iterator[str]:
    """Where the bounds that clients are told, by the metadata and by a call, are not the manifest's."""
    expected = {
        f"{name}/{parameter}": list(bounds)
        for name, method in manifest.by_signature.items()
        for parameter, bounds in [
            (CLASS_INDEX, (-1.0, manifest.classes - 1.0)),
            *((p.name, extremes(Bounds(p.low, p.high, ""), p.dtype)) for p in method.parameters),
        ]
    }
    signature = servable.signature_defs.get(PARAMETER_BOUNDS)
    if signature is None:
        return  # an export of an earlier release
    if not {"parameter", "bounds"} <= set(signature.defaults):
        yield f"signature {PARAMETER_BOUNDS} has no defaults that tell the bounds of parameters"
        return
    names = tf.make_ndarray(signature.defaults["parameter"])
    table = tf.make_ndarray(signature.defaults["bounds"])
    if dict(zip([name.decode() for name in names], table.tolist(), strict=False)) != expected:
        yield f"{PARAMETER_BOUNDS} tells other parameters or bounds by its defaults than the manifest"
    backwards = list(expected)[::-1]
    asked = {"parameter": np.array(backwards, object), "bounds": np.zeros((len(backwards), 2))}
    try:
        told = servable.predict(PARAMETER_BOUNDS, asked)["bounds"]
    except ServableError as error:
        yield f"signature {PARAMETER_BOUNDS} fails: {error}"
        return
    for name, bounds in zip(backwards, told.tolist(), strict=True):
        if bounds != expected[name]:
            yield f"{PARAMETER_BOUNDS} tells {bounds} for {name}, not {expected[name]}"


def _default_names(servable: Servable) -> list[str] | None:
    signature = servable.signature_defs.get(CLASS_LABELS)
    if signature is None or "labels" not in signature.defaults:
        return None
    return [name.decode() for name in tf.make_ndarray(signature.defaults["labels"])]


def _called_names(servable: Servable, labels: Sequence[str]) -> list[str] | None:
    """The names as a client has them by calling: in any order, whatever else it sends."""
    backwards = np.arange(len(labels), dtype=np.int32)[::-1]
    try:
        answer = servable.predict(
            CLASS_LABELS, {"labels": np.full(len(labels), b"", object), "class_index": backwards}
        )
    except ServableError:
        return None
    return [name.decode() for name in answer["labels"][::-1]]


def _rows(
    servable: Servable,
    manifest: Manifest,
    reference: Mapping[str, np.ndarray],
    first_ms: Mapping[tuple[str, int], float],
) -> Iterator[Row]:
    sizes = manifest.batch_sizes
    for signature in _signatures(manifest):
        for size in (*sizes, sizes[-1] + 1):
            yield _row(servable, signature, size, manifest, reference, first_ms.get((signature, size), 0.0))


def _row(
    servable: Servable,
    signature: str,
    size: int,
    manifest: Manifest,
    reference: Mapping[str, np.ndarray],
    first_ms: float,
) -> Row:
    inputs = inputs_of(reference, signature, servable.signature_defs[signature].inputs)
    examples = len(inputs["images"])
    errors = _Errors()
    ms = 0.0
    try:
        # At batch size 1 every example is asked for alone; else they alternate, the last one first, since
        # the warmup records begin with the first.
        for offset in range(examples) if size == 1 else [examples - 1]:
            rows = (np.arange(size) + offset) % examples
            feeds = {name: value[rows] for name, value in inputs.items()}
            outputs, ms = _timed(servable, signature, feeds)
            first_ms = first_ms or ms
            _compare(outputs, signature, rows, reference, manifest, errors)
    except (ServableError, ExportError) as error:
        return Row(signature, size, first_ms, ms, errors.score, errors.worst_map, _reason(error))
    bounds = _bounds(manifest, signature)
    outliers = frozenset(example for example, error in errors.maps.items() if error > bounds.gradient)
    problem = _beyond_tolerance(errors, bounds)
    return Row(signature, size, first_ms, ms, errors.score, errors.worst_map, problem, outliers)


def _bounds(manifest: Manifest, signature: str) -> Tolerances:
    """What the answers of a signature are held to."""
    entry = manifest.by_signature.get(signature)
    in_fewer_bits = entry is not None and entry.sample_precision not in (None, "float32")
    return tolerances(manifest.rounding, fewer_bits=in_fewer_bits)


def _reason(error: ExportError) -> str:
    return error.reason if isinstance(error, ServableError) else str(error)


@dataclass
class _Errors:
    """The largest errors of an answer's scores, and of its maps by the reference's example."""

    score: float = 0.0
    maps: dict[int, float] = field(default_factory=dict)

    @property
    def worst_map(self) -> float:
        return max(self.maps.values(), default=0.0)

    @property
    def best_map(self) -> float:
        return min(self.maps.values(), default=0.0)

    def without(self, outliers: Collection[int]) -> _Errors:
        """The errors without those of examples that are known to have a unit at a kink."""
        return _Errors(
            self.score, {example: e for example, e in self.maps.items() if example not in outliers}
        )


def _beyond_tolerance(errors: _Errors, bounds: Tolerances) -> str:
    """What is wrong with an answer's errors, or ""."""
    if not errors.score <= bounds.score:
        return f"scores differ from the reference by {errors.score:.2g} (bound {bounds.score:.2g})"
    # Of float16 and bfloat16, a deep model's rounding alone is as far from itself as a wrong map is.
    rounded = ""
    if bounds.gradient >= MOST:
        rounded = (
            ", as in so deep a model of this precision rounding alone may: try float32, or --compile none"
        )
    for what, error, bound in (
        ("a map differs", errors.worst_map, bounds.outlier),
        ("maps differ", errors.best_map, bounds.gradient),
    ):
        if not error <= bound:
            return f"{what} from the reference by {error:.2g} (bound {bound:.2g}){rounded}"
    return ""


def _timed(
    servable: Servable, signature: str, feeds: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], float]:
    start = time.perf_counter()
    outputs = servable.predict(signature, feeds)
    return outputs, 1e3 * (time.perf_counter() - start)


def _compare(
    outputs: Mapping[str, np.ndarray],
    signature: str,
    rows: np.ndarray,
    reference: Mapping[str, np.ndarray],
    manifest: Manifest,
    errors: _Errors,
) -> None:
    """Updates the largest errors; raises where an output is of another kind than the reference.

    `outputs` may be some of the signature's. Saliency without the map that it is made of is held against that
    of the reference.
    """
    method = manifest.by_signature.get(signature)
    wanted = {
        name: reference[f"{signature}/{name}"] for name in outputs if f"{signature}/{name}" in reference
    }
    if method is not None and "saliency" in outputs:
        kind, alone = KINDS[method.kind], method.map not in outputs
        own_map = reference[f"{signature}/{method.map}"] if alone else outputs[method.map]
        made = kind.expected(own_map, manifest.input.sizes)
        if alone:
            wanted["saliency"] = made
        elif not max(_map_errors(outputs["saliency"], made)) <= SALIENCY_TOLERANCE:
            raise ExportError(f"saliency is not {kind.rule}")
    for name, expected in wanted.items():
        got, want = outputs[name], expected[rows]
        if got.shape != want.shape or got.dtype != want.dtype:
            raise ExportError(f"{name} is {got.dtype} {got.shape}, not {want.dtype} {want.shape}")
        measure = "equal" if want.dtype.kind == "i" else COMPARED.get(name, "gradient")
        if measure == "equal":
            if not np.array_equal(got, want):
                raise ExportError(f"{name} is {got.tolist()}, not {want.tolist()}")
            continue
        if measure == "score":
            errors.score = max(errors.score, _score_error(got, want))
            continue
        for example, error in zip(rows.tolist(), _map_errors(got, want), strict=True):
            errors.maps[example] = max(errors.maps.get(example, 0.0), error)
    if "label" in outputs:
        labels = [label.decode() for label in outputs["label"]]
        if labels != [(manifest.labels or ())[index] for index in outputs[CLASS_INDEX]]:
            raise ExportError(f"label is {labels} for class_index {outputs['class_index'].tolist()}")


def _score_error(got: np.ndarray, want: np.ndarray) -> float:
    if not np.all(np.isfinite(got)):
        return float("inf")
    return float(np.abs(got.astype(np.float64) - want).max() / max(1.0, np.abs(want).max()))


def _is_near(saliency: np.ndarray, of_the_map: np.ndarray) -> bool:
    return max(_map_errors(saliency, of_the_map)) <= SALIENCY_TOLERANCE


def _map_errors(got: np.ndarray, want: np.ndarray) -> list[float]:
    """Of each example."""
    if not np.all(np.isfinite(got)):
        return [float("inf")] * len(want)
    difference = got.astype(np.float64) - want
    return [
        float(np.linalg.norm(d.ravel()) / max(np.linalg.norm(w.ravel()), np.finfo(np.float32).tiny))
        for d, w in zip(difference, want, strict=True)
    ]


def _refusal_problems(
    servable: Servable, manifest: Manifest, reference: Mapping[str, np.ndarray]
) -> Iterator[str]:
    """A class that does not exist must be refused as INVALID_ARGUMENT, naming the value and the bound."""
    for signature in _signatures(manifest)[1:]:
        feeds = {
            "images": reference["input/images"][:1],
            CLASS_INDEX: np.array([manifest.classes], np.int32),
        }
        try:
            servable.predict(signature, feeds)
            yield f"{signature} accepts class_index {manifest.classes}"
        except ServableError as error:
            if error.code != tf.errors.INVALID_ARGUMENT or "class_index" not in error.message:
                yield f"{signature} refuses class_index {manifest.classes} with: {error.message}"


class _RecordRun(NamedTuple):
    """A warmup record that has run: its milliseconds, what is wrong with the answer or "", and its errors."""

    ms: float
    problem: str
    errors: _Errors


def _record_runs(
    servable: Servable,
    manifest: Manifest,
    reference: Mapping[str, np.ndarray],
    requests: Sequence[predict_pb2.PredictRequest],
) -> list[_RecordRun]:
    """Runs every record, several side by side, since a program is compiled by one thread.

    Each has to be answered as the reference's examples, which it is made of. Those of signatures that the
    model brought along have to run; `kept_problems` looks at what they answer.
    """
    compared = _signatures(manifest)

    def replay(request: predict_pb2.PredictRequest) -> _RecordRun:
        signature = request.model_spec.signature_name
        inputs = {name: to_array(proto) for name, proto in request.inputs.items()}
        start = time.perf_counter()
        ms, problem, errors = 0.0, "", _Errors()
        try:
            outputs = servable.predict(signature, inputs, request.output_filter)
            ms = 1e3 * (time.perf_counter() - start)
            if signature in compared:
                problem = _compare_record(outputs, signature, inputs, manifest, reference, errors)
        except (ServableError, ExportError) as error:
            problem = _reason(error)
        return _RecordRun(ms, problem, errors)

    # A GPU's memory is for one batch at a time.
    threads = 1 if tf.config.list_physical_devices("GPU") else min(_MOST_THREADS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="verify")
    try:
        return list(pool.map(replay, requests))
    finally:
        # After an interrupt nobody asks for the records that have not begun.
        pool.shutdown(cancel_futures=True)


def _first_ms(
    requests: Sequence[predict_pb2.PredictRequest], replays: Sequence[_RecordRun]
) -> dict[tuple[str, int], float]:
    """Milliseconds of the first record of each signature and batch size that asks for all outputs."""
    first: dict[tuple[str, int], float] = {}
    for request, replay in zip(requests, replays, strict=True):
        if not request.output_filter and "images" in request.inputs:
            size = request.inputs["images"].tensor_shape.dim[0].size
            first.setdefault((request.model_spec.signature_name, size), replay.ms)
    return first


def _compare_record(
    outputs: Mapping[str, np.ndarray],
    signature: str,
    inputs: Mapping[str, np.ndarray],
    manifest: Manifest,
    reference: Mapping[str, np.ndarray],
    errors: _Errors,
) -> str:
    """What is wrong with the record itself, or ""; updates the errors of the answer."""
    rows = np.arange(len(inputs["images"])) % len(reference["input/images"])
    asked = inputs_of(reference, signature, inputs)
    if not all(np.array_equal(value, asked[name][rows]) for name, value in inputs.items()):
        return "it asks for other examples than the reference has"
    _compare(outputs, signature, rows, reference, manifest, errors)
    return ""


def _record_problem(errors: _Errors, signature: str, rows: Sequence[Row], manifest: Manifest) -> str:
    """What is wrong with a record's answer, or "".

    A record may hold a single example: it is an outlier where it is one in the rows, which ask for the same.
    """
    bounds = _bounds(manifest, signature)
    outliers = frozenset().union(*(row.outliers for row in rows if row.signature == signature))
    of_outliers = _Errors(0.0, {e: error for e, error in errors.maps.items() if e in outliers})
    if of_outliers.worst_map > bounds.outlier:
        return _beyond_tolerance(of_outliers, bounds)
    return _beyond_tolerance(errors.without(outliers), bounds)
