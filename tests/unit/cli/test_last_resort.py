"""No exception of TensorFlow, of Keras or of a mistake in the exporter reaches a user as a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import keras
import pytest
import tensorflow as tf
import tf_keras
from click.testing import CliRunner, Result

import saliency_exporter.version.write as write
from saliency_client.cli.errors import CommandError
from saliency_exporter.cli import _Exporter, main
from saliency_exporter.cli.last_resort import is_foreseen, last_resort, note_step, sentence
from saliency_exporter.cli.steps import Steps
from saliency_exporter.errors import ExportError

TESTS = Path(__file__).parents[2]


class Own(keras.layers.Layer):
    def call(self, x: tf.Tensor) -> tf.Tensor:
        raise ValueError("my own reason\nand more of it")


class OwnOfKeras2(tf_keras.layers.Layer):
    def call(self, x: tf.Tensor) -> tf.Tensor:
        raise ValueError("my own reason")


@tf.function
def reshapes(x: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, size, name="squared")


@tf.function
def without_gradient(x: tf.Tensor) -> tf.Tensor:
    return tf.gradients(tf.raw_ops.AdjustContrastv2(images=x, contrast_factor=2.0, name="adjusts"), x)


@tf.function(jit_compile=True)
def not_for_xla(x: tf.Tensor) -> tf.Tensor:
    return tf.strings.length(tf.strings.as_string(x))


ERRORS: dict[str, tuple[Callable[[], object], list[str]]] = {
    "a layer": (lambda: Own(name="mine")(tf.zeros([1, 3])), ["at layer Own: ", "my own reason"]),
    "a layer of Keras 2": (
        lambda: OwnOfKeras2(name="mine")(tf.zeros([1, 3])),
        ["at layer mine (OwnOfKeras2): "],
    ),
    "an op that runs": (
        lambda: reshapes(tf.zeros([5]), tf.constant([2, 2])),
        ["at op squared: ", "InvalidArgumentError"],
    ),
    "an op without a gradient": (
        lambda: without_gradient(tf.zeros([1, 2, 2, 3])),
        ["at op AdjustContrastv2: ", "No gradient defined"],
    ),
    "an op that XLA lacks": (
        lambda: not_for_xla(tf.zeros([2])),
        ["at op AsString: ", "unsupported operations"],
    ),
    "an op": (lambda: tf.reshape(tf.zeros([5]), [2, 2]), ["at op Reshape: ", "5 values"]),
    "a mistake": (lambda: {}["missing"], ["tracing failed: KeyError: 'missing'"]),
    "nothing said": (lambda: 1 // 0 and None, ["tracing failed: ZeroDivisionError"]),
}


def run_steps(say: Steps, *steps: str | Callable[[], object]) -> None:
    for one in steps:
        say(one) if isinstance(one, str) else one()


@pytest.mark.parametrize("fails", ERRORS)
def test_a_sentence_names_the_step_the_place_and_the_reason(fails: str) -> None:
    call, parts = ERRORS[fails]
    with pytest.raises(CommandError) as told, last_resort(lambda: "export"), Steps() as say:
        run_steps(say, "tracing", call)
    assert str(told.value).startswith("tracing failed")
    for part in parts:
        assert part in str(told.value)
    assert "\n" not in str(told.value)
    assert told.value.__cause__ is not None
    assert "SALIENCY_DEBUG=1" in (told.value.hint or "")


@pytest.mark.parametrize(
    "error",
    [
        ExportError("no", hint="yes"),
        ExportError("no"),
        click.UsageError("no"),
        click.Abort(),
        click.exceptions.Exit(3),
        CommandError("no"),
        MemoryError(),
        ModuleNotFoundError("no", name="tensorflow"),
        FileNotFoundError(2, "no", "file"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_was_made_for_people_stays_as_it_is(error: Exception) -> None:
    assert is_foreseen(error)
    with pytest.raises(type(error)) as told, last_resort(lambda: "export"):
        raise error
    assert told.value is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_what_ends_a_process_ends_it(error: BaseException) -> None:
    with pytest.raises(type(error)), last_resort(lambda: "export"):
        raise error


def test_the_layer_is_named_that_failed_first() -> None:
    outer = ValueError("Exception encountered when calling layer 'outer' (type Sequential).")
    outer.__cause__ = ValueError("Exception encountered when calling layer 'inner' (type Dense).\n\nno")
    assert sentence(outer, "export").endswith("(export at layer inner (Dense))")
    note_step(outer, "tracing")
    note_step(outer, "a step around it")
    assert sentence(outer, "export").startswith("tracing failed at layer inner (Dense): ")


def test_steps_say_which_of_them_failed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandError) as told, last_resort(lambda: "export"), Steps() as say:
        run_steps(say, "the first", lambda: None, "the second", lambda: 1 // 0)
    assert str(told.value) == "the second failed: ZeroDivisionError: integer division or modulo by zero"
    assert capsys.readouterr().err.endswith("the second …\n")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    monkeypatch.chdir(TESTS)
    return lambda *arguments: CliRunner().invoke(main, [*map(str, arguments)])


OPTIONS = ("--preprocessing", "tf", "--compile", "none", "--batch-sizes", "1", "--no-verify")


@pytest.mark.parametrize(
    ("broken", "step"),
    [
        ("trace", "tracing the forward pass"),
        ("build_signatures", "building signatures: serving_default, gradients"),
        ("started_reference", "computing the reference that the export is verified against"),
    ],
)
def test_a_mistake_in_the_exporter_is_a_sentence_with_its_step(
    run, monkeypatch, tmp_path: Path, broken: str, step: str
) -> None:
    def breaks(*arguments: object, **named: object) -> None:
        raise TypeError("a function of ours is broken")

    monkeypatch.setattr(write, broken, breaks)
    done = run("export", "models:classifier", tmp_path / "m", *OPTIONS, "--methods", "gradients")
    assert (type(done.exception), done.exit_code) == (SystemExit, 1)
    assert (
        f"error: {step} failed: TypeError: a function of ours is broken\nhint: SALIENCY_DEBUG=1"
        in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("command", ["verify", "inspect", "serving-config"])
def test_the_other_commands_say_which_of_them_failed(run, monkeypatch, tmp_path: Path, command: str) -> None:
    def breaks(*arguments: object, **named: object) -> None:
        raise IndexError("a function of ours is broken")

    import saliency_exporter.version.manifest as manifest

    monkeypatch.setattr(manifest, "manifest_path", breaks)
    done = run(command, tmp_path / "1")
    assert (type(done.exception), done.exit_code) == (SystemExit, 1)
    assert (
        f"error: unexpected IndexError: a function of ours is broken (saliency-exporter {command})\n"
        in done.stderr
    )


def test_the_whole_error_is_shown_where_it_is_asked_for(run, monkeypatch, tmp_path: Path) -> None:
    import saliency_exporter.version.manifest as manifest

    monkeypatch.setenv("SALIENCY_DEBUG", "1")
    monkeypatch.setattr(manifest, "manifest_path", None)
    done = run("inspect", tmp_path / "1")
    assert done.exit_code == 1
    assert "TypeError: 'NoneType' object is not callable" in done.stderr
    assert "Traceback" in done.stderr


def test_an_option_that_breaks_is_told_like_a_command() -> None:
    @click.group(cls=_Exporter, homes={})
    def commands() -> None:
        """One command."""

    @commands.command()
    def fails() -> None:
        raise ZeroDivisionError

    done = CliRunner().invoke(commands, ["fails"])
    assert done.exit_code == 1
    assert "error: unexpected ZeroDivisionError (saliency-exporter fails)\n" in done.stderr
