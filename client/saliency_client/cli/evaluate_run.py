"""What `saliency-client evaluate` does: ask, measure, keep, tell."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Group
from rich.table import Table
from rich.text import Text

from saliency_client import OptionError
from saliency_client.cli import classes
from saliency_client.cli.batch import (
    Failures,
    batch_exit_code,
    in_halves,
    in_order,
    tell_left_out,
    without_missing,
)
from saliency_client.cli.connection import Connection, check_given, connect
from saliency_client.cli.destinations import check_home
from saliency_client.cli.errors import CommandError, UsageError
from saliency_client.cli.inputs import Input, find_inputs, for_model, has_found_arrays, read_photo
from saliency_client.cli.methods import method_signature, parameters_of
from saliency_client.cli.model_input import ModelInput, model_input
from saliency_client.cli.parameters import check
from saliency_client.cli.photos import allow_pixels
from saliency_client.cli.printer import Printer
from saliency_client.cli.text import printable
from saliency_client.evaluation import road
from saliency_client.evaluation.measure import UndefinedMeasure
from saliency_client.evaluation.merging import Load, Merger
from saliency_client.evaluation.ranking import Standing, pair_json, pairs, standing_json, standings
from saliency_client.evaluation.registry import MEASURES, Measure
from saliency_client.evaluation.served import (
    PREDICTIONS,
    Evaluator,
    Method,
    Requests,
    control_methods,
    digest,
    made_with,
    settings_for,
)
from saliency_client.images import DEFAULT_MAX_PIXELS, Resize

if TYPE_CHECKING:
    from saliency_client import SaliencyClient

RESULTS = "results.jsonl"
_WORKERS_PER_REQUEST = 4
"""Images and methods that are measured at a time for each request under way, so that requests are full."""

_FEW = 6
"""Of n images a method that is no better wins on all, or on none, in 2 · 2⁻ⁿ of cases; here below 5 %."""


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of the command, as typed."""

    images: tuple[str, ...]
    connection: Connection
    methods: str | None
    measures: tuple[str, ...]
    class_name: str | None
    class_index: int | None
    settings: Sequence[tuple[str | None, str, Any]]
    controls: bool
    parameters: Mapping[str, Any]
    out: Path | None
    resize: Resize
    max_pixels: int | None
    recursive: bool
    labels: Path | None
    fail_fast: bool
    concurrency: int
    batch_size: int
    wait: float | None


@dataclass(frozen=True)
class _Plan:
    """What is measured of every image: each method with each measure and its settings."""

    model: ModelInput
    name: str
    version: int | None
    class_index: int | None
    asks: tuple[tuple[Method, tuple[tuple[Measure, Any], ...]], ...]


Job = tuple[Input, Method, tuple[tuple[Measure, Any], ...]]


def run(options: EvaluateOptions, printer: Printer) -> int:
    """Evaluate; returns the exit code."""
    measures = _measures(options)
    check_given(options.connection)
    check_home(options.out)
    found = find_inputs(options.images, recursive=options.recursive)
    names = classes.names_of_file(options.labels)
    with ExitStack() as stack:
        client = stack.enter_context(_ready_client(options, printer))
        plan = _plan(options, client, measures, names)
        inputs = found.inputs
        if has_found_arrays(inputs):
            inputs = for_model(inputs, plan.model, found.left_out)
        failures = Failures(printer, alone=len(inputs) + len(found.left_out.errors) == 1)
        tell_left_out(found.left_out, failures)
        there = without_missing(inputs, lambda one: one, failures)
        total = len(inputs) + len(found.left_out.errors)
        if not there or (failures.errors and options.fail_fast):
            return batch_exit_code(failures.errors, total)
        stack.enter_context(allow_pixels(options.max_pixels))
        kept = _Kept.read(options.out, printer)
        stack.callback(kept.close)
        records, load = _work_off(there, plan, options, client, kept, failures)
    _tell(records, load, options, printer)
    return batch_exit_code(failures.errors, total)


@contextmanager
def _ready_client(options: EvaluateOptions, printer: Printer) -> Iterator[SaliencyClient]:
    with connect(options.connection) as client:
        if options.wait is not None:
            with printer.waiting(f"waiting for {printable(client.model)}"):
                client.wait_ready(options.wait)
        yield client


def _measures(options: EvaluateOptions) -> tuple[Measure, ...]:
    """Those that were asked for; their settings are looked at, before a server is."""
    for name in options.measures:
        if name not in MEASURES:
            from difflib import get_close_matches

            near = get_close_matches(name, MEASURES, n=1)
            raise UsageError(
                f"there is no measure {name!r}; there are {', '.join(MEASURES)}",
                hint=f"did you mean {near[0]}?" if near else "choose some with --measures",
            )
    if road.NAME in options.measures:
        road.check_installed()
    measures = tuple(MEASURES[name] for name in options.measures)
    for measure, name, _ in options.settings:
        if measure is not None and measure not in options.measures:
            raise UsageError(
                f"--setting {measure}.{name} is of a measure that is not asked for",
                hint=f"the measures are {', '.join(options.measures)}; --measures adds one",
            )
        takers = [one for one in measures if measure in (None, one.name)]
        known = sorted({field for one in takers for field in _fields(one)})
        if name not in known:
            raise UsageError(
                f"no measure that is asked for has a setting {name!r}; there are "
                f"{', '.join(known) or 'none'}",
                hint="`saliency-client evaluate --help` lists the measures",
            )
    for one in measures:
        _settings(one, Method("", None), options)
    return measures


def _fields(measure: Measure) -> set[str]:
    return set(measure.settings.__dataclass_fields__) - {"class_index"}


def _settings(measure: Measure, method: Method, options: EvaluateOptions) -> Any:
    general = {name: value for own, name, value in options.settings if own is None}
    own = {name: value for own, name, value in options.settings if own == measure.name}
    given = {**general, **own}
    if "percentages" in given and not isinstance(given["percentages"], tuple):
        given["percentages"] = (given["percentages"],)
    try:
        return settings_for(measure, method, given)
    except (OptionError, TypeError) as error:
        raise UsageError(f"{measure.name}: {error}", hint=getattr(error, "hint", None)) from error


def _plan(
    options: EvaluateOptions,
    client: SaliencyClient,
    measures: tuple[Measure, ...],
    names: tuple[str, ...] | None,
) -> _Plan:
    signatures = client.signatures()
    named = options.methods.split(",") if options.methods else client.methods()
    asked = tuple(method_signature(name, signatures) for name in dict.fromkeys(named))
    if not asked:
        raise CommandError("the model offers no method", hint="export it with saliency-exporter")
    methods = [
        Method(one.method or "", one, parameters_of(one, options.parameters, asked, signatures))
        for one in asked
    ]
    methods += control_methods() if options.controls else ()
    class_index = _class_index(options, client, names)
    if class_index is not None:
        check({"class_index": class_index}, asked[0], signatures)
    return _Plan(
        model_input(asked[0], signatures),
        client.model,
        _version(options, client),
        class_index,
        tuple(
            (method, tuple((one, _settings(one, method, options)) for one in measures)) for method in methods
        ),
    )


def _version(options: EvaluateOptions, client: SaliencyClient) -> int | None:
    if options.connection.version is not None:
        return options.connection.version
    if options.connection.label is not None:
        return None
    return next((one.version for one in client.status() if one.available), None)


def _class_index(
    options: EvaluateOptions, client: SaliencyClient, names: tuple[str, ...] | None
) -> int | None:
    if options.class_name is None:
        return options.class_index
    known = classes.class_names(options.labels, names, client)
    if not known:
        raise UsageError(
            "the served model has no class names",
            hint="give --class an index, or the names with --labels FILE",
        )
    return classes.find_class(options.class_name, known)


class _Kept:
    """Results that are there, and the file that new ones are appended to."""

    def __init__(self, file: TextIO | None, records: Mapping[str, Mapping[str, Any]]) -> None:
        self._file, self._records = file, records

    @classmethod
    def read(cls, folder: Path | None, printer: Printer) -> _Kept:
        """Those of a folder; a line that a run which was ended wrote half is passed over."""
        if folder is None:
            return cls(None, {})
        path = folder / RESULTS
        records: dict[str, Mapping[str, Any]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror or error}") from error
        for line in text.splitlines():
            try:
                record = json.loads(line)
                records[_key(record["image"], record["made_with"])] = record
            except (ValueError, KeyError, TypeError):
                printer.detail(f"{path}: passed over a line that is no result")
        if text and not text.endswith("\n"):
            file.write("\n")
        return cls(file, records)

    def get(self, image: str, made: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return self._records.get(_key(image, made))

    def add(self, record: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _key(image: str, made: Mapping[str, Any]) -> str:
    return json.dumps([image, made], sort_keys=True)


@dataclass(frozen=True)
class _Sent:
    """What a run asked for, and what it had already."""

    predictions: int
    explanations: int
    kept: int
    load: Load


def _work_off(
    there: Sequence[Input],
    plan: _Plan,
    options: EvaluateOptions,
    client: SaliencyClient,
    kept: _Kept,
    failures: Failures,
) -> tuple[list[Mapping[str, Any]], _Sent]:
    printer = failures.printer
    methods = {method.name: method for method, _ in plan.asks}
    requests = Requests(client, methods, plan.version, options.connection.timeout)
    bound = options.max_pixels or DEFAULT_MAX_PIXELS
    workers = options.concurrency * _WORKERS_PER_REQUEST

    @functools.lru_cache(maxsize=2 * workers)
    def read(one: Input) -> Any:
        return read_photo(one, plan.model, resize=options.resize, max_pixels=bound, draft=True).array

    sent = itertools.count()

    def ask(kind: Any, items: Sequence[Any]) -> Sequence[Any]:
        def some(part: Sequence[Any]) -> Sequence[Any]:
            next(sent)
            return requests(kind, part)

        return in_halves(some, items)

    jobs: list[Job] = [(one, method, asks) for one in there for method, asks in plan.asks]
    records: list[Mapping[str, Any]] = []
    failed: set[Input] = set()
    with ExitStack() as stack:
        merger = stack.enter_context(Merger(ask, options.batch_size, options.concurrency))
        evaluator = Evaluator(merger, plan.class_index)
        advance = stack.enter_context(printer.progress(len(jobs), "evaluating"))
        work = functools.partial(_records, plan=plan, evaluator=evaluator, read=read, kept=kept)
        results = in_order(work, jobs, workers=workers)
        for (one, _, _), future in results:
            try:
                found = future.result()
            except Exception as error:
                # One of an image's methods tells for all of them.
                if one not in failed:
                    failures.add(one, error)
                failed.add(one)
                if failures.end_request(succeeded=False) or options.fail_fast:
                    results.close()
                    break
            else:
                failures.end_request(succeeded=True)
                for record, is_new in found:
                    if is_new:
                        kept.add(record)
                    records.append({**record, "kept": not is_new})
                    if printer.mode == "json":
                        printer.result(records[-1], str)
            advance()
        failures.tell()
        # A batch that was refused has been asked for again in parts.
        load = replace(merger.load(), requests=next(sent))
    predicted = sum(count for kind, count in load.items.items() if kind == PREDICTIONS)
    explained = sum(load.items.values()) - predicted
    return records, _Sent(predicted, explained, sum(one["kept"] for one in records), load)


def _records(
    job: Job, *, plan: _Plan, evaluator: Evaluator, read: Callable[[Input], Any], kept: _Kept
) -> list[tuple[Mapping[str, Any], bool]]:
    """The records of one image's map by one method, and whether each is new."""
    one, method, asks = job
    image = read(one)
    key = digest(image)
    made = [
        {
            **made_with(plan.name, plan.version, method, measure.name, settings, key),
            "class_index": plan.class_index,
        }
        for measure, settings in asks
    ]
    known = [kept.get(one.source, each) for each in made]
    left = [number for number, record in enumerate(known) if record is None]
    results = evaluator.measure(image, method, [asks[number] for number in left]) if left else []
    for number, found in zip(left, results, strict=True):
        shared = {"kind": "result", "image": one.source, "method": method.name}
        if isinstance(found, UndefinedMeasure):
            fields: dict[str, Any] = {
                "status": "undefined",
                "measure": asks[number][0].name,
                "value": None,
                "note": str(found) + (f" ({found.hint})" if found.hint else ""),
                "class_index": plan.class_index,
                "settings": made[number]["settings"],
                "map": None,
                "curve": [],
                "predictions": 0,
                "explanations": 0,
            }
        else:
            fields = {**found[0].to_json(), "map": found[1]}
            fields["status"] = "ok" if fields["value"] is not None else "undefined"
        record = {**shared, **fields, "made_with": made[number]}
        known[number] = json.loads(json.dumps(record, allow_nan=False))
    return [(record, number in left) for number, record in enumerate(known) if record is not None]


def _tell(
    records: Sequence[Mapping[str, Any]], sent: _Sent, options: EvaluateOptions, printer: Printer
) -> None:
    if not records:
        return
    standing, pairing = standings(records), pairs(records)
    if printer.mode == "json":
        for one in standing:
            printer.result(standing_json(one), str)
        for pair in pairing:
            printer.result(pair_json(pair), str)
        printer.result(_load_json(sent), str)
    else:
        quiet = [f"{one.measure}\t{one.method}\t{one.summary.mean:.6g}" for one in standing]
        printer.result({}, lambda: _tables(standing), quiet)
    for note in _notes(records):
        printer.note(note)
    images = len({one["image"] for one in records})
    if 1 < images < _FEW:
        printer.note(
            f"note: {images} images are few: by chance alone a method beats another on all of them, or on "
            f"none, in {2 * 0.5**images:.0%} of cases; evaluate {_FEW} or more"
        )
    busy = sent.load.busy_seconds / sent.load.seconds if sent.load.seconds else 0.0
    printer.note(
        f"{sent.predictions} predictions and {sent.explanations} explanations of images in "
        f"{sent.load.requests} requests and {sent.load.seconds:.1f} s, {busy:.0%} of it with a request under "
        "way" + (f"; {sent.kept} results were there" if sent.kept else "")
    )
    if options.out is not None:
        from saliency_client.evaluation.report import write_report

        path = write_report(options.out, records, standing, pairing, _load_json(sent))
        printer.note(f"wrote {printable(str(path))}")


def _load_json(sent: _Sent) -> dict[str, Any]:
    return {
        "kind": "load",
        "predictions": sent.predictions,
        "explanations": sent.explanations,
        "requests": sent.load.requests,
        "seconds": round(sent.load.seconds, 3),
        "busy_seconds": round(sent.load.busy_seconds, 3),
        "kept": sent.kept,
    }


def _notes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to know of results, each once, with the methods and how many of their images it is about."""
    count: dict[tuple[str, str], dict[str, int]] = {}
    for one in records:
        if one["note"]:
            methods = count.setdefault((one["measure"], one["note"]), {})
            methods[short(one["method"])] = methods.get(short(one["method"]), 0) + 1
    images = len({one["image"] for one in records})
    return [
        f"note: {measure} of "
        + ", ".join(name if number == images else f"{name} ({number})" for name, number in methods.items())
        + f": {note}"
        for (measure, note), methods in count.items()
    ]


def _tables(standing: Sequence[Standing]) -> Group:
    parts: list[Table | Text] = []
    for name in dict.fromkeys(one.measure for one in standing):
        measure = MEASURES[name]
        rows = [one for one in standing if one.measure == name]
        better = f"{measure.better} is better" if measure.better else "neither end is better"
        title = Text.assemble((name, "bold"), f"  {measure.summary}; {better}")
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("method", no_wrap=True)
        table.add_column("mean", justify="right", style="bold")
        table.add_column("95 % interval", justify="right")
        table.add_column("images", justify="right")
        controls = sorted({name for one in rows for name in one.against})
        for control in controls:
            table.add_column(f"beats {short(control)} on", justify="right")
        table.add_column("")
        for one in rows:
            found = one.summary
            table.add_row(
                Text(printable(one.method), "dim" if one.method.startswith("control:") else ""),
                _number(found.mean),
                f"{_number(found.low)} to {_number(found.high)}" if found.low == found.low else "",
                str(found.images) + (f" of {found.images + found.undefined}" if found.undefined else ""),
                *(_wins(one, control) for control in controls),
                Text(f"not shown to be better than {' and '.join(map(short, one.no_better_than))}", "yellow")
                if one.no_better_than
                else "",
            )
        parts += [title, table, Text("")]
    return Group(*parts[:-1])


def _wins(one: Standing, control: str) -> str:
    found = one.against.get(control)
    return f"{found.wins} of {found.images}" if found is not None and found.images else ""


def short(control: str) -> str:
    """A control's name without its prefix."""
    return control.removeprefix("control:")


def _number(value: float) -> str:
    return f"{value:.4g}" if value == value else "undefined"
