"""The command line of the exporter: export, verify, inspect, serve, demo."""

from __future__ import annotations

import difflib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

import click

from .errors import ExportError
from .text import one_line, printable, printable_json

_METHODS = ("gradients", "guided", "smooth")
_BATCH_SIZES = (1, 2, 4, 8, 16)
_PREPROCESSINGS = ("auto", "none", "pixels", "tf", "torch", "caffe")


class _LazyGroup(click.Group):
    """Loads the commands of other modules when they are used: `--help` must not wait for TensorFlow."""

    lazy: Mapping[str, tuple[str, str]] = {
        "serve": ("saliency_exporter.serving.command", "serve_command"),
        "demo": ("saliency_exporter.demo", "demo_command"),
        "serving-config": ("saliency_exporter.serving_config", "serving_config_command"),
    }

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *self.lazy])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in self.lazy:
            from importlib import import_module

            module, attribute = self.lazy[name]
            return getattr(import_module(module), attribute)
        return super().get_command(context, name)

    def invoke(self, context: click.Context) -> Any:
        interrupts = _noted_interrupts()
        try:
            return super().invoke(context)
        except ExportError as error:
            fail(error)
        except KeyboardInterrupt:
            _end_interrupted()
        except ModuleNotFoundError as error:
            # The command comes with the plain install, as the client's does; what it runs on does not.
            if (error.name or "").partition(".")[0] not in _OF_THE_EXTRA:
                raise
            sentence = f"saliency-exporter needs the package {error.name!r}, which is not installed"
            install = "pip install 'saliency-serving[exporter]', or in a clone: pip install -e '.[exporter]'"
            fail(ExportError(sentence, hint=install))
        except Exception:
            # Raised amid a call of TensorFlow's, an interrupt can come out as another error.
            if interrupts:
                _end_interrupted()
            raise


_OF_THE_EXTRA = ("tensorflow", "tensorflow_serving", "keras", "grpc_health", "grpc_reflection")
"""The packages that saliency-serving[exporter] brings, by the name that is imported."""


def _noted_interrupts() -> list[int]:
    """The interrupts that have come, a list that grows; each is a KeyboardInterrupt until it is taken."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        sys.excepthook = again
        signal.default_int_handler(number, frame)

    def again(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # Code of TensorFlow's that can pass no exception on prints it and goes on.
        if not issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))
        timer.daemon = True
        timer.start()

    # What is ignored, as in a shell's background job, stays ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, note)
    return noted


def _end_interrupted() -> NoReturn:
    click.echo("interrupted", err=True)
    sys.exit(130)


def fail(error: ExportError) -> NoReturn:
    """End the process with one sentence and, where there is one, the next step; no traceback."""
    if os.environ.get("SALIENCY_DEBUG", "0") not in ("", "0"):
        raise error
    click.echo(f"{click.style('error:', fg='red', bold=True)} {printable(str(error))}", err=True)
    if error.hint:
        click.echo(f"{click.style('hint:', fg='yellow')} {printable(error.hint)}", err=True)
    sys.exit(1)


@click.group(
    cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="saliency-serving", prog_name="saliency-exporter")
def main() -> None:
    """Export a TensorFlow image classifier as a model that TensorFlow Serving serves and explains.

    \b
    saliency-exporter export MobileNetV2 models/mobilenet
    saliency-exporter serve mobilenet=models/mobilenet
    saliency-client explain cat.jpg --server localhost:8500 --model mobilenet
    """


class _Numbers(click.ParamType):
    """Ascending positive integers, as in 1,2,4."""

    name = "N,N,…"

    def convert(self, value: Any, param: Any, context: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 1,2,4", param, context)
        if any(number < 1 for number in numbers) or list(numbers) != sorted(set(numbers)):
            self.fail(f"{value!r} must be positive and ascending, such as 1,2,4", param, context)
        return numbers


class _Sizes(click.ParamType):
    """The sizes of one example, as in 128,80,1."""

    name = "N,N,…"

    def convert(self, value: Any, param: Any, context: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of sizes such as 128,80", param, context)


class _Held(click.ParamType):
    """An input's name and its constant, as in rate=0.5 or mask=mask.npy."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: Any, context: Any) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, separator, text = value.partition("=")
        if not (name and separator and text):
            self.fail(f"{value!r} is not of the form NAME=VALUE", param, context)
        import numpy as np

        if text.endswith(".npy"):
            try:
                return name, np.load(text, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                self.fail(f"{text} cannot be read as an array: {error}", param, context)
        if text in ("true", "false"):
            return name, np.array(text == "true")
        try:
            return name, np.array(int(text), np.int32)
        except (ValueError, OverflowError):
            pass
        try:
            return name, np.array(float(text), np.float32)
        except ValueError:
            self.fail(f"{text!r} is not a number, true, false or a .npy file", param, context)


class _Preprocessing(click.ParamType):
    """The name of a preprocessing, or module:callable."""

    name = "NAME"

    def convert(self, value: Any, param: Any, context: Any) -> str:
        if value not in _PREPROCESSINGS and ":" not in value:
            known = ", ".join(_PREPROCESSINGS)
            self.fail(f"{value!r} is not one of {known} or module:callable", param, context)
        return str(value)


class _Names(click.ParamType):
    """Some of the methods, as in gradients,smooth."""

    name = "NAME,…"

    def convert(self, value: Any, param: Any, context: Any) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(value.split(","))
        unknown = [name for name in names if name not in _METHODS]
        if unknown:
            self.fail(f"{unknown[0]!r} is not one of {', '.join(_METHODS)}", param, context)
        return tuple(name for name in _METHODS if name in names)


_xla_cache = click.option(
    "--xla-cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep compiled programs in this directory, so that the next process does not compile again.",
)


@main.command()
@click.argument("model")
@click.argument("model_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", help="Name of the model.  [default: the last part of MODEL_DIR]")
@click.option("--version", type=click.IntRange(min=1), help="Version number.  [default: the next one]")
@click.option(
    "--image-size", nargs=2, type=click.IntRange(min=1), metavar="H W", help="Where the model leaves it open."
)
@click.option(
    "--input-shape",
    type=_Sizes(),
    help="The same for input of any rank: all sizes of one example, such as 128,80 for a spectrogram.",
)
@click.option(
    "--input", "input_name", metavar="NAME", help="Of a model with several inputs: the one to explain."
)
@click.option(
    "--hold",
    "held",
    type=_Held(),
    multiple=True,
    help="The value of another input, for every example: a number, true, false, or a .npy file. Repeatable.",
)
@click.option(
    "--preprocessing",
    type=_Preprocessing(),
    default="auto",
    show_default=True,
    help="What happens to pixels before the model: tf, torch or caffe, as in keras.applications; pixels, if "
    "it takes 0..255 itself; none, if clients send float32 model input; or your own module:callable. auto is "
    "what is known of keras.applications and efficientnet-lite0; of any other model you have to say it.",
)
@click.option("--labels", type=click.Path(path_type=Path), help="Class names: a text or JSON file.")
@click.option(
    "--methods",
    type=_Names(),
    default=_METHODS,
    help=f"What to export.  [default: {','.join(_METHODS)}]",
)
@click.option(
    "--batch-sizes",
    type=_Numbers(),
    default=_BATCH_SIZES,
    help="Compiled batch sizes; any other batch is padded or sliced to these.  "
    f"[default: {','.join(map(str, _BATCH_SIZES))}]",
)
@click.option(
    "--compile",
    "compile_",
    type=click.Choice(["xla", "none", "auto"]),
    default="xla",
    show_default=True,
    help="none: the same signatures without XLA, for servers that cannot be given its flag. auto: with "
    "--target cpu, whichever is faster here, measured for each signature and batch size.",
)
@click.option(
    "--target",
    type=click.Choice(["gpu", "cpu"]),
    default="gpu",
    show_default=True,
    help="The device to run on: on a CPU some ops are replaced by equal, faster ones.",
)
@click.option(
    "--kernels",
    type=click.Choice(["auto", "onednn", "eigen"]),
    default="auto",
    show_default=True,
    help="With --target cpu, for what XLA does not compile: the set of TensorFlow's CPU kernels that the "
    "server will use. onednn: its CPU has AVX-512 VNNI or better; eigen: it has not; auto: as this machine.",
)
@click.option(
    "--lowering/--no-lowering", default=True, help="Replace ops by equal ones that are faster on the target."
)
@click.option(
    "--max-samples",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Bound of num_samples in explain_smooth.",
)
@click.option(
    "--weights", metavar="imagenet|PATH|none", help="keras.applications: which weights.  [default: imagenet]"
)
@click.option(
    "--score",
    type=click.Choice(["auto", "output"]),
    default="auto",
    show_default=True,
    help="auto explains the logits before a final softmax or sigmoid; output explains the output itself.",
)
@click.option(
    "--signature", metavar="KEY", help="Of a SavedModel: which signature.  [default: serving_default]"
)
@click.option("--output", metavar="NAME", help="Of a model with several outputs: the one to explain.")
@click.option("--unsafe", is_flag=True, help="Run Python code that a model file holds (Lambda layers).")
@click.option("--verify/--no-verify", "verify_", default=True, help="Check the export before publishing it.")
@_xla_cache
def export(
    model: str,
    model_dir: Path,
    name: str | None,
    version: int | None,
    image_size: tuple[int, int] | None,
    input_shape: tuple[int, ...] | None,
    input_name: str | None,
    held: tuple[tuple[str, Any], ...],
    preprocessing: str,
    labels: Path | None,
    methods: tuple[str, ...],
    batch_sizes: tuple[int, ...],
    compile_: str,
    target: str,
    kernels: str,
    lowering: bool,
    max_samples: int,
    weights: str | None,
    score: str,
    signature: str | None,
    output: str | None,
    unsafe: bool,
    verify_: bool,
    xla_cache: Path | None,
) -> None:
    """Export MODEL to the next version of the model base path MODEL_DIR.

    MODEL is a .keras or .h5 file, a SavedModel directory, module:callable, the name of a
    keras.applications model, or efficientnet-lite0, whose trained weights saliency-serving[demo] brings.

    \b
    saliency-exporter export efficientnet-lite0 models/lite0
    saliency-exporter export my-model.keras models/mine --preprocessing tf --labels names.txt
    saliency-exporter export my_package.models:build models/mine --preprocessing pixels
    saliency-exporter export ResNet50 models/resnet --weights resnet50.weights.h5 --batch-sizes 1,8
    """
    if kernels != "auto" and target != "cpu":
        raise click.UsageError(f"--kernels {kernels} is for a CPU: give --target cpu as well")
    _check_without_tensorflow(model, model_dir, version, labels, weights)
    with _Steps() as say:
        say("starting TensorFlow and loading the model")
        _quiet_tensorflow()
        from .kernels import resolve_kernels
        from .labels import read_labels
        from .preprocessing import resolve_preprocessing
        from .saved_model import Export
        from .saved_model import export as export_version
        from .signatures import Settings
        from .sources import load_source

        served_by = resolve_kernels(kernels, measured=compile_ == "auto" and target == "cpu")
        source = load_source(
            model,
            weights=weights,
            unsafe=unsafe,
            image_size=image_size or None,
            input_shape=input_shape,
            input_name=input_name,
            held=dict(held),
            output_name=output,
            signature=signature,
        )
        names = source.labels
        if labels is not None:
            names = read_labels(labels, _classes_of(source))
        job = Export(
            source=source,
            preprocessing=resolve_preprocessing(preprocessing, source),
            settings=Settings(
                methods=methods,
                batch_sizes=batch_sizes,
                compile=compile_,
                target=target,
                kernels=served_by,
                lowering=lowering,
                max_samples=max_samples,
                labels=names,
            ),
            name=name or model_dir.resolve().name,
            score=score,
        )
        with ExitStack() as stack:
            verify_step = None
            if verify_:
                # Beside a measurement nothing else shall run.
                verify_step = stack.enter_context(_verifier(xla_cache, at_once=compile_ != "auto"))
            final = export_version(job, model_dir, version=version, verify=verify_step, progress=say)
    from .manifest import read_manifest

    for line in _closing_lines(read_manifest(final)):
        click.echo(line, err=True)
    click.echo(str(final))


def _closing_lines(manifest: Mapping[str, Any]) -> list[str]:
    """What to know of an export when it is done: the server that it needs, and what was taken for granted."""
    from .server_needs import describe_server, newer_than_image

    head, server = manifest["score"], manifest["server"]
    lines = [f"to be served by {describe_server(server)}: {server['why'][0]}"]
    if head["head_assumed"]:
        lines.append(
            "note: the model ends in neither softmax nor sigmoid: its output is taken for logits, "
            f"and probabilities are their {head['head']}"
        )
    if note := newer_than_image(server):
        lines.append(f"note: {note}")
    return lines


def _check_without_tensorflow(
    model: str, model_dir: Path, version: int | None, labels: Path | None, weights: str | None
) -> None:
    """Find the mistakes that can be found before TensorFlow is imported, which takes seconds."""
    from .base_path import refuse_existing
    from .labels import read_labels

    # Names of models have no dot.
    if ":" not in model and (Path(model).suffix or os.sep in model):
        _check_exists(Path(model), "model")
    if weights not in (None, "imagenet", "none"):
        _check_exists(Path(weights), "weights file")
    if labels is not None:
        _check_exists(labels, "labels file")
        read_labels(labels)
    if version is not None:
        refuse_existing(model_dir / str(version))


def _check_exists(path: Path, what: str) -> None:
    if path.exists():
        return
    folder = path.parent
    if not folder.is_dir():
        raise ExportError(f"{what} {path} does not exist", hint=f"there is no directory {folder} either")
    near = difflib.get_close_matches(path.name, [other.name for other in folder.iterdir()], n=3)
    raise ExportError(
        f"{what} {path} does not exist",
        hint=f"did you mean {' or '.join(str(folder / name) for name in near)}?"
        if near
        else f"it was looked for in {folder.resolve()}",
    )


def _classes_of(source: Any) -> int:
    from .tracing import trace

    return trace(source).classes


class _Steps:
    """Says each step on stderr with the seconds that the one before took."""

    def __init__(self) -> None:
        self.start: float | None = None

    def __call__(self, message: str) -> None:
        self.done()
        self.start = time.monotonic()
        click.echo(f"{message} …", err=True, nl=False)

    def __enter__(self) -> _Steps:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.done()
        elif self.start is not None:
            click.echo(err=True)

    def done(self) -> None:
        if self.start is not None:
            click.echo(click.style(f" {time.monotonic() - self.start:.1f} s", dim=True), err=True)
        self.start = None


@contextmanager
def _verifier(xla_cache: Path | None, *, at_once: bool) -> Iterator[Callable[[Path], dict[str, Any]]]:
    """Verification in a fresh process, as a server starts: nothing of the export's own state helps it.

    Args:
        xla_cache: directory for compiled programs.
        at_once: start the process now: importing TensorFlow takes seconds, which another core has while the
            export traces. Else it is started when there is something to verify.

    Yields:
        What checks a finished directory and returns what the manifest records of it.
    """
    command = [sys.executable, "-m", "saliency_exporter", "verify", _FROM_STDIN, "--json"]
    if xla_cache is not None:
        command += ["--xla-cache", str(xla_cache)]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    processes = [start()] if at_once else []

    def verify_directory(directory: Path) -> dict[str, Any]:
        click.echo(err=True)
        if not processes:
            processes.append(start())
        (process,) = processes
        output, _ = process.communicate(f"{directory.resolve()}\n")
        try:
            report = json.loads(output)
        except ValueError:
            raise ExportError(
                f"verification ended with exit code {process.returncode}; nothing was exported"
            ) from None
        if process.returncode != 0:
            raise ExportError(
                f"the export failed its verification: {report['problems'][0]}",
                hint="nothing was exported; --compile none shows whether XLA is the reason",
            )
        return {key: value for key, value in report.items() if key != "problems"}

    try:
        yield verify_directory
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):
                    pipe.close()


_FROM_STDIN = "-"
"""In place of VERSION_DIR: its path is a line on stdin, which is read when TensorFlow is imported."""


def _line_from_stdin() -> str:
    """The line for which a process waits that was started before there was something to verify."""
    line = sys.stdin.readline().rstrip("\n")
    if not line:
        # Whoever started it has nothing to verify.
        sys.exit(0)
    return line


@main.command()
@click.argument("version_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout; the table on stderr.")
@_xla_cache
def verify(version_dir: Path, as_json: bool, xla_cache: Path | None) -> None:
    """Check VERSION_DIR: load it as TensorFlow Serving does and run every signature.

    Compares with what the uncompiled model gave when it was exported; exits with 1 where an answer is not
    within tolerance of it. The table has a row for each signature and batch size: the times of the first
    call and of the next, the largest difference of a score, and the norm of a map's difference over the
    map's norm.

    \b
    saliency-exporter verify models/lite0/1
    """
    on_interrupt = signal.getsignal(signal.SIGINT)
    if str(version_dir) == _FROM_STDIN:
        # Until there is something to verify, whoever started this process ends it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        from .manifest import read_manifest

        read_manifest(version_dir)
    _quiet_tensorflow()
    from .verify import verify as verify_version

    if str(version_dir) == _FROM_STDIN:
        version_dir = Path(_line_from_stdin())
        signal.signal(signal.SIGINT, on_interrupt)
    cache = _use_xla_cache(xla_cache)
    table = _Table(err=as_json)
    started = time.monotonic()
    report = verify_version(version_dir, progress=table.row, step=lambda words: click.echo(words, err=True))
    if cache is not None:
        from .xla_cache import vouch_for_entries

        vouch_for_entries(cache)
    for problem in report.problems:
        click.echo(f"{click.style('differs:', fg='red', bold=True)} {printable(problem)}", err=True)
    if as_json:
        click.echo(json.dumps({**report.to_manifest(), "problems": report.problems}))
    elif not report.problems:
        click.echo(
            f"every answer is within tolerance of the reference: {len(report.rows)} calls and "
            f"{report.warmup_records} warmup records in {time.monotonic() - started:.0f} s"
        )
    sys.exit(1 if report.problems else 0)


class _Table:
    """Prints the rows of a verification as they come."""

    def __init__(self, *, err: bool) -> None:
        self.err = err
        self.headed = False

    def row(self, row: Any) -> None:
        if not self.headed:
            self.headed = True
            head = (
                f"{'signature':<18} {'batch':>5} {'first call':>11} {'next call':>11} {'score':>8} {'map':>8}"
            )
            click.echo(click.style(head, bold=True), err=self.err)
        mark = click.style("ok", fg="green") if not row.problem else click.style(row.problem, fg="red")
        click.echo(
            f"{printable(row.signature):<18} {row.batch_size:>5} {row.first_ms:>8.0f} ms {row.ms:>8.1f} ms "
            f"{row.score_error:>8.1g} {row.gradient_error:>8.1g}  {mark}",
            err=self.err,
        )


@main.command()
@click.argument("version_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The whole manifest as JSON.")
def inspect(version_dir: Path, as_json: bool) -> None:
    """Show what VERSION_DIR holds: model, input, preprocessing, activations, signatures.

    \b
    saliency-exporter inspect models/lite0/1
    """
    from .inspection import summary
    from .manifest import as_written, read_manifest

    manifest = read_manifest(version_dir)
    if as_json:
        click.echo(printable_json(manifest))
        return
    with as_written(version_dir):
        lines = summary(version_dir, manifest)
    for name, value in lines:
        click.echo(f"{click.style(f'{name:<15}', bold=True)}{one_line(value)}")


def _quiet_tensorflow() -> None:
    from .quiet import import_tensorflow

    import_tensorflow()


def _use_xla_cache(directory: Path | None) -> Path | None:
    if directory is None:
        return None
    from .xla_cache import use_xla_cache

    return use_xla_cache(directory)
