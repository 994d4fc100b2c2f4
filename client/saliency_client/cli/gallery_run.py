"""What `saliency-client gallery` does: explain, or take what was explained; draw; write; tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from saliency_client import maps
from saliency_client._contract import RELATIVE_ERROR, SIGNED_MAPS, STANDARD_ERROR
from saliency_client._numbers import MOST_SECONDS
from saliency_client._signatures import number_of_classes
from saliency_client.cli import classes, explained, photo_facts, pictures
from saliency_client.cli.batch import (
    Failures,
    batch_exit_code,
    in_order,
    tell_left_out,
    without_missing,
)
from saliency_client.cli.connection import DEFAULT_TIMEOUT, Connection, check_given, connect, is_path
from saliency_client.cli.destinations import check_home
from saliency_client.cli.ending import ended_by_signals
from saliency_client.cli.errors import CommandError, UsageError
from saliency_client.cli.explain_run import in_batches
from saliency_client.cli.explainer import Explainer, ExplainOptions, facts_of
from saliency_client.cli.inputs import STDIN, Input, find_inputs, for_model, has_found_arrays
from saliency_client.cli.methods import method_signature
from saliency_client.cli.model_input import model_input
from saliency_client.cli.parameters import SHORTHANDS, option_name
from saliency_client.cli.photos import allow_pixels
from saliency_client.cli.printer import Printer
from saliency_client.cli.text import printable
from saliency_client.cli.version import release
from saliency_client.images import DEFAULT_MAX_PIXELS, Photo, Resize
from saliency_client.web import gallery
from saliency_client.web.map_picture import PhotoPictures, photo_pictures
from saliency_client.web.shown import Shown, ShownClass, ShownMap, is_right, shown_map

if TYPE_CHECKING:
    from saliency_client import Explanation, SaliencyClient, Signature

_LARGE_FILE = 100 << 20
"""Bytes of a single file above which a folder is the better page."""


@dataclass(frozen=True)
class GalleryOptions:
    """The options of the command, as typed."""

    images: tuple[str, ...]
    connection: Connection
    methods: tuple[str, ...] | None
    class_name: str | None
    class_index: int | None
    top: int | None
    parameters: Mapping[str, Any]
    explained: Path | None
    out: str
    single_file: bool
    title: str | None
    truth: Path | None
    evaluation: Path | None
    clip: float
    overwrite: bool
    resize: Resize
    max_pixels: int | None
    recursive: bool
    labels: Path | None
    fail_fast: bool
    concurrency: int
    batch_size: int
    wait: float | None


@dataclass
class _About:
    """What is known of all photos, as they come.

    Attributes:
        models: name and version of those that answered.
        command: the words that `saliency-client explain` is called with beside the photo, class, methods and
            the version that answered, which the page adds.
        left_out: options that it needs too, and that are not for a page.
        noisy: how many maps are mostly noise.
    """

    models: dict[tuple[str, int | None], None] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    noisy: int = 0

    def note(self, facts: Mapping[str, Any]) -> None:
        self.models[str(facts.get("model")), facts.get("version")] = None

    def told(self) -> Mapping[str, Any]:
        models = [list(one) for one in self.models]
        # Files of an earlier run do not tell which server it was.
        of_server = "--model" in self.command or "--local" in self.command
        words = self.command if of_server else ["--model", str(models[0][0]), *self.command]
        return {
            "models": models,
            "command": words,
            "left_out": self.left_out,
            "made_by": f"saliency-client {release()}",
        }


@dataclass(frozen=True)
class _Beside:
    """What files say of the photos, by path as typed."""

    truth: Mapping[str, str]
    results: Mapping[str, Sequence[Mapping[str, Any]]]


def run(options: GalleryOptions, printer: Printer) -> int:
    """Make the gallery; returns the exit code."""
    _check(options)
    path = _place(options)
    truth = None if options.truth is None else photo_facts.read_truth(options.truth)
    results = None if options.evaluation is None else photo_facts.read_evaluation(options.evaluation)
    started, about = time.monotonic(), _About()
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        stack.enter_context(allow_pixels(options.max_pixels))
        work = _from_files if options.explained is not None else _from_server
        names, failures, total, shown = work(options, printer, about, truth, stack)
        beside = _Beside(
            {}
            if truth is None
            else photo_facts.of_photos(_path(options.truth), truth, names, what="truth file"),
            {}
            if results is None
            else photo_facts.of_photos(_path(options.evaluation), results, names, what="evaluation"),
        )
        _note_unnamed(options, beside, names, printer)
        try:
            count = gallery.write(
                path,
                _counted(shown(beside), about),
                about.told,
                title=options.title or _title(options),
                single_file=options.single_file,
                overwrite=options.overwrite,
            )
        except gallery.EmptyGallery:
            failures.tell()
            printer.note("no photo could be shown, so no page was written")
            return batch_exit_code(failures.errors, total)
        except FileExistsError as error:
            raise CommandError(f"{printable(str(path))} exists", hint="-o names another place") from error
        except OSError as error:
            raise CommandError(
                f"{printable(str(path))} cannot be written: {error.strerror or error}"
            ) from error
        failures.tell()
    _tell(path, count, failures, about, options, printer, time.monotonic() - started)
    return batch_exit_code(failures.errors, total)


def _counted(shown: Iterator[Shown], about: _About) -> Iterator[Shown]:
    """The same photos; those of their maps that are mostly noise are counted."""
    for one in shown:
        of_all = (each.numbers.get(RELATIVE_ERROR, 0) for found in one.classes for each in found.maps)
        about.noisy += sum(error > 1 for error in of_all)
        yield one


def _check(options: GalleryOptions) -> None:
    """Raise UsageError for options that do not go together."""
    if options.explained is None:
        if not options.images:
            raise UsageError("no image is given", hint="name photos or a folder, or give --from FILE")
        check_given(options.connection)
    if options.explained is not None:
        connection = options.connection
        given = {
            "images": options.images,
            "--methods": options.methods,
            "--class": options.class_name is not None or options.class_index is not None,
            "--top": options.top,
            "parameters of methods": options.parameters,
            "--local": connection.local,
        }
        for name, value in given.items():
            if value:
                raise UsageError(
                    f"--from takes photos and maps as they were made; {name} would change them",
                    hint="explain them again, or leave --from out",
                )
    if options.truth is not None and (options.class_name, options.class_index) != (None, None):
        raise UsageError(
            "--truth says whether the predicted class is right, and --class explains another one",
            hint="--top 3 explains the predicted class and the next ones",
        )


def _place(options: GalleryOptions) -> Path:
    """Where the gallery goes; it is seen before any work is done that nothing stands there."""
    out = options.out
    if not out:
        raise UsageError("-o is empty", hint="a variable of the shell may be unset")
    check_home(out)
    path, is_page = Path(out), out.lower().endswith((".html", ".htm"))
    if options.single_file and not is_page:
        raise UsageError(
            f"--single-file writes one HTML, and -o {printable(out)} is not named as one",
            hint=f"-o {printable(out.rstrip('/') or 'page')}.html",
        )
    if is_page and not options.single_file and not path.is_dir():
        raise UsageError(
            f"-o {printable(out)} is named as a file, and a gallery is a folder",
            hint="--single-file writes one HTML",
        )
    if options.single_file:
        if path.is_dir():
            raise CommandError(f"{printable(out)} is a folder", hint="-o names another place")
        if path.exists() and not options.overwrite:
            raise CommandError(f"{printable(out)} exists", hint="--overwrite replaces it")
    elif path.exists() or path.is_symlink():
        if not path.is_dir():
            raise CommandError(f"{printable(out)} is no folder", hint="-o names another place")
        if any(path.iterdir()) and not gallery.is_gallery(path):
            raise CommandError(
                f"{printable(out)} is a folder with something else in it", hint="-o names another place"
            )
        if any(path.iterdir()) and not options.overwrite:
            raise CommandError(f"{printable(out)} exists", hint="--overwrite replaces the gallery")
        path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f"folder {printable(str(path.parent))} cannot be made: {error.strerror or error}"
        ) from error
    return path


_Work = tuple[Sequence[tuple[str, str]], Failures, int, Callable[[_Beside], Iterator[Shown]]]
"""The photos, as typed and as shown; what fails; how many there are; and what makes all that is shown."""


def _from_server(
    options: GalleryOptions,
    printer: Printer,
    about: _About,
    truth: Mapping[str, str] | None,
    stack: ExitStack,
) -> _Work:
    found = find_inputs(options.images, recursive=options.recursive)
    names = classes.names_of_file(options.labels)
    client = stack.enter_context(connect(options.connection))
    if options.wait is not None:
        with printer.waiting(f"waiting for {printable(client.model)}"):
            client.wait_ready(options.wait)
    signatures = client.signatures()
    methods = options.methods or tuple(client.methods())
    if not methods:
        raise CommandError("the model offers no method", hint="export it with saliency-exporter")
    first = method_signature(methods[0], signatures)
    inputs = found.inputs
    if has_found_arrays(inputs):
        inputs = for_model(inputs, model_input(first, signatures), found.left_out)
    total = len(inputs) + len(found.left_out.errors)
    failures = Failures(printer, alone=total == 1)
    tell_left_out(found.left_out, failures)
    there = without_missing(inputs, lambda one: one, failures)
    class_names = _class_names(options, names, client, first, truth)
    if truth is not None:
        photo_facts.check_classes(_path(options.truth), truth, class_names, number_of_classes(signatures))
    explainer = Explainer(
        _explain_options(options, methods), printer, client, class_names, ("npz",), _drawn_by(options)
    )
    if there and not any(one.is_array or one.source == STDIN for one in there):
        explainer.model.check_takes_photos()
    about.command += _command(options)
    about.left_out += _left_out(options)

    def shown(beside: _Beside) -> Iterator[Shown]:
        results = in_order(
            explainer.explain, in_batches(there, explainer.options), workers=options.concurrency
        )
        with printer.progress(len(there), "explaining") as advance:
            for batch, future in results:
                succeeded = False
                for one, outcome in zip(batch, future.result(), strict=False):
                    if isinstance(outcome, Exception):
                        failures.add(one, outcome)
                    else:
                        succeeded = True
                        about.note(outcome[0].records[0])
                        yield _together(one, outcome, beside)
                    advance()
                if failures.end_request(succeeded=succeeded) or (options.fail_fast and failures.errors):
                    results.close()
                    break

    return [(one.source, _name(one)) for one in there], failures, total, shown


def _class_names(
    options: GalleryOptions,
    names: classes.ClassNames | None,
    client: SaliencyClient,
    signature: Signature,
    truth: Mapping[str, str] | None,
) -> classes.ClassNames | None:
    """The names of all classes, where they are needed: some servers take a call for them."""
    by_name = options.class_name is not None
    if truth is not None or by_name or options.labels is not None or "label" not in signature.outputs:
        return classes.class_names(options.labels, names, client)
    return None


def _explain_options(options: GalleryOptions, methods: Sequence[str]) -> ExplainOptions:
    return ExplainOptions(
        images=options.images,
        connection=options.connection,
        existing="refuse",
        method=",".join(methods),
        baselines=(),
        class_name=options.class_name,
        class_index=options.class_index,
        top=options.top,
        parameters=options.parameters,
        out=None,
        formats=("npz",),
        styles=("overlay",),
        colormap=None,
        opacity=None,
        clip=options.clip,
        clip_low=None,
        polarity=None,
        photo_colors=False,
        regions=False,
        top_regions=None,
        resize=options.resize,
        max_pixels=options.max_pixels,
        recursive=options.recursive,
        labels=options.labels,
        fail_fast=options.fail_fast,
        concurrency=options.concurrency,
        batch_size=options.batch_size,
        wait=options.wait,
    )


def _drawn_by(
    options: GalleryOptions,
) -> Callable[[Photo, Sequence[pictures.Answer], int | None], tuple[Any, ...]]:
    """What draws an image's answers, in the threads that asked for them."""

    def draw(photo: Photo, answers: Sequence[pictures.Answer], rank: int | None) -> tuple[Any, ...]:
        drawn = photo_pictures(photo) if rank in (None, 1) else None
        return drawn, _shown_class(answers, options.clip)

    return draw


def _shown_class(answers: Sequence[pictures.Answer], clip: float) -> ShownClass:
    facts = answers[0].facts
    return ShownClass(
        facts["class_index"],
        facts["label"],
        facts["probability"],
        facts["score"],
        facts["rank"],
        tuple(_shown_map(answer, clip) for answer in answers),
    )


def _shown_map(answer: pictures.Answer, clip: float) -> ShownMap:
    facts = answer.facts
    numbers = {RELATIVE_ERROR: facts[RELATIVE_ERROR], **facts["outputs"]}
    numbers.pop(STANDARD_ERROR, None)  # for programs alone
    explanation = answer.explanation
    signed = None if answer.signed_map not in explanation.outputs else answer.signs
    try:
        return shown_map(
            answer.method, explanation.saliency[0], signed, numbers, clip=clip, version=facts["version"]
        )
    except ValueError as error:
        raise CommandError(
            f"no picture can be drawn: {error}",
            hint="`saliency-client explain --format npz` keeps the values",
        ) from error


def _together(one: Input, results: Sequence[Any], beside: _Beside) -> Shown:
    """The results of an image, one for each class."""
    photo: PhotoPictures = results[0].contents[0]
    return _shown(one, photo, [result.contents[1] for result in results], beside)


def _shown(one: Input, photo: PhotoPictures, found: Sequence[ShownClass], beside: _Beside) -> Shown:
    truth = beside.truth.get(one.source)
    results = beside.results.get(one.source, ())
    measured = tuple(_measured(shown, results) for shown in found) if results else tuple(found)
    return Shown(_name(one), _argument(one), photo, measured, truth, is_right(truth, found[0]))


def _measured(one: ShownClass, results: Sequence[Mapping[str, Any]]) -> ShownClass:
    """The same with what an evaluation measured of its maps."""
    return replace(
        one,
        maps=tuple(
            replace(
                shown,
                numbers={
                    **shown.numbers,
                    **photo_facts.evaluated(results, shown.method, one.class_index),
                },
            )
            for shown in one.maps
        ),
    )


def _from_files(
    options: GalleryOptions,
    printer: Printer,
    about: _About,
    truth: Mapping[str, str] | None,
    stack: ExitStack,
) -> _Work:
    lines = _path(options.explained)
    found = explained.read_lines(lines)
    names = classes.names_of_file(options.labels)
    failures = Failures(printer, alone=len(found) == 1)
    bound = options.max_pixels or DEFAULT_MAX_PIXELS
    if truth is not None:
        photo_facts.check_classes(_path(options.truth), truth, names, len(names) if names else None)
    made = explained.made_with(found)
    resize = (made.get("drawn") or {}).get("resize")
    about.command += ["--resize", resize] if resize not in (None, "crop") else []
    about.command += _drawing_words(options) + _parameter_words(made.get("parameters") or {})
    about.left_out += ["--server"]

    def draw(one: explained.Explained) -> tuple[PhotoPictures, list[ShownClass], Mapping[str, Any]]:
        photo, by_class = explained.load(one, lines, bound)
        drawn = [
            [
                pictures.Answer(each, _signed_map(each), facts_of(each, names), _no_segments)
                for each in explanations
            ]
            for explanations in by_class
        ]
        return (
            photo_pictures(photo),
            [_shown_class(answers, options.clip) for answers in drawn],
            drawn[0][0].facts,
        )

    def shown(beside: _Beside) -> Iterator[Shown]:
        results = in_order(draw, found, workers=options.concurrency)
        with printer.progress(len(found), "drawing") as advance:
            for one, future in results:
                image = Input(one.image)
                try:
                    photo, drawn, facts = future.result()
                except Exception as error:
                    failures.add(image, error)
                    if options.fail_fast:
                        results.close()
                        break
                else:
                    about.note(facts)
                    yield _shown(image, photo, drawn, beside)
                advance()

    return [(one.image, _name(Input(one.image))) for one in found], failures, len(found), shown


def _signed_map(one: Explanation) -> str | None:
    return next((name for name in SIGNED_MAPS if name in one.outputs), None)


def _no_segments() -> Any:
    raise AssertionError("a gallery draws no regions")


def _name(one: Input) -> str:
    """What a photo is called on the page: no more of its path than was typed from here, or is below that."""
    if one.source == STDIN:
        return "stdin"
    path = Path(one.source)
    if not one.named:
        return str(one.folder / path.name)
    return path.name if path.is_absolute() or ".." in path.parts else str(path)


def _argument(one: Input) -> str:
    """What a command calls a photo: as typed, where that tells nothing of this machine."""
    path = Path(one.source)
    if one.source == STDIN or path.is_absolute() or ".." in path.parts:
        return "-" if one.source == STDIN else _name(one)
    return f"./{path}" if one.source.startswith("-") else str(path)


def _command(options: GalleryOptions) -> list[str]:
    """The words of the command that makes a map again, beside photo, method, class and version.

    Nothing in them is secret, and no path tells of more than what was typed from here.
    """
    connection, words = options.connection, list[str]()
    if connection.local is not None:
        words += ["--local", _typed_path(connection.local)]
    else:
        server = str(connection.server)
        words += [] if is_path(server) else ["--server", server]
        words += ["--model", str(connection.model)]
        words += ["--tls"] if connection.tls else []
        files = {"--ca": connection.ca, "--cert": connection.cert, "--key": connection.key}
        files["--token-file"] = connection.token_file
        for option, path in files.items():
            words += [option, _typed_path(path)] if path is not None else []
        words += ["--server-name", connection.server_name] if connection.server_name is not None else []
    words += ["--timeout", _seconds(connection.timeout)] if connection.timeout != DEFAULT_TIMEOUT else []
    words += ["--resize", options.resize] if options.resize != "crop" else []
    return words + _drawing_words(options) + _parameter_words(options.parameters)


def _left_out(options: GalleryOptions) -> list[str]:
    """Options that the command needs too, and that may be secret, or tell of this machine."""
    connection = options.connection
    if connection.local is not None:
        return []
    server = ["--server"] if is_path(str(connection.server)) else []
    return server + (["--metadata"] if connection.metadata else [])


def _drawing_words(options: GalleryOptions) -> list[str]:
    words = ["--clip", f"{options.clip:.12g}"] if options.clip != maps.DEFAULT_CLIP else []
    if options.max_pixels is not None:
        words += ["--max-pixels", str(options.max_pixels)]
    return words + (["--labels", _typed_path(options.labels)] if options.labels is not None else [])


def _typed_path(path: Path) -> str:
    """A path as it was typed, or its name alone where that tells of this machine."""
    return path.name if path.is_absolute() or ".." in path.parts else str(path)


def _seconds(timeout: float) -> str:
    return f"{timeout:.12g}" if timeout < MOST_SECONDS else "inf"


def _parameter_words(parameters: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in parameters.items():
        words += [option_name(name), repr(value)] if name in SHORTHANDS else ["--param", f"{name}={value!r}"]
    return words


def _title(options: GalleryOptions) -> str:
    connection = options.connection
    if options.explained is None and connection.local is None and connection.model:
        return connection.model
    if connection.local is not None:
        local = connection.local.resolve()
        return local.parent.name if local.name.isdecimal() else local.name
    return "Explanations"


def _path(path: Path | None) -> Path:
    assert path is not None
    return path


def _note_unnamed(
    options: GalleryOptions, beside: _Beside, names: Sequence[tuple[str, str]], printer: Printer
) -> None:
    for what, path, known in (
        ("truth file", options.truth, beside.truth),
        ("evaluation", options.evaluation, beside.results),
    ):
        if path is not None and len(known) < len(names):
            left = len(names) - len(known)
            printer.note(
                f"note: the {what} {printable(str(path))} does not name {left} of {len(names)} photos"
            )


def _tell(
    path: Path,
    count: int,
    failures: Failures,
    about: _About,
    options: GalleryOptions,
    printer: Printer,
    seconds: float,
) -> None:
    page = Path(options.out) if options.single_file else Path(options.out) / gallery.PAGE
    model, version = next(iter(about.models), (None, None))
    record = {
        "kind": "gallery",
        "file": str(page),
        "photos": count,
        "failed": len(failures.errors),
        "methods": list(options.methods or ()),
        "model": model,
        "version": version,
        "seconds": round(seconds, 3),
    }
    photos = f"{count} photo{'' if count == 1 else 's'}"
    failed = f", {len(failures.errors)} failed" if failures.errors else ""
    printer.result(
        record,
        lambda: Text.assemble((printable(str(page)), "cyan"), f"  {photos}{failed}, in {seconds:.1f} s"),
        [str(page)],
    )
    if about.noisy:
        maps = "1 map is" if about.noisy == 1 else f"{about.noisy} maps are"
        printer.note(f"note: {maps} mostly noise (relative error above 1); more --num-samples settle them")
    size = path.stat().st_size if options.single_file else 0
    if size > _LARGE_FILE:
        printer.note(
            f"note: the file has {size / 1e6:.0f} MB, which a browser reads at once; without --single-file "
            "it reads what it shows"
        )
