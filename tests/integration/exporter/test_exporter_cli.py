from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import preloaded
import pytest
from click.testing import CliRunner, Result

from saliency_exporter.cli import _closing_lines, main
from saliency_exporter.manifest import read_manifest
from saliency_exporter.server_needs import newer_than_image

TESTS = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path = TESTS, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "saliency_exporter", *arguments]
    return preloaded.run(command, cwd=cwd, env={**os.environ, **environment})


def run_anew(*arguments: str, cwd: Path = TESTS) -> subprocess.CompletedProcess[str]:
    """In a new interpreter, which imports TensorFlow itself."""
    return subprocess.run(
        [sys.executable, "-m", "saliency_exporter", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_help_names_every_command_and_does_not_import_tensorflow():
    done = run_anew("--help")
    assert done.returncode == 0
    for command in ("export", "verify", "inspect", "serve", "demo"):
        assert command in done.stdout
    check = (
        "import sys, saliency_exporter.cli\n"
        "try: saliency_exporter.cli.main(['export', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, check=False).returncode == 0


def test_export_prints_the_directory_alone_on_stdout_and_no_noise(tmp_path):
    options = ["--preprocessing", "tf", "--compile", "none", "--batch-sizes", "1"]
    options += ["--methods", "gradients"]
    done = run_anew("export", "models:classifier", str(tmp_path / "m"), *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'm' / '1'}\n"
    steps = (
        "loading the model",
        "tracing",
        "signatures",
        "reference",
        "saving",
        "verifying",
        "explain_gradients",
    )
    server = read_manifest(tmp_path / "m" / "1")["server"]
    closing = [
        "to be served by TensorFlow Serving 2.18 or newer, without a flag for XLA: " + server["why"][0]
    ]
    # Of a TensorFlow that is newer than the newest image, with the note that says so; with no other one.
    closing += [f"note: {note}" for note in (newer_than_image(server),) if note]
    assert done.stderr.splitlines()[-len(closing) :] == closing
    assert done.stderr.count("note:") == len(closing) - 1
    positions = [done.stderr.index(step) for step in steps]
    assert positions == sorted(positions)
    for noise in ("WARNING", "I0000", "E0000", "cuda", "oneDNN", "Traceback"):
        assert noise not in done.stderr


def test_verify_prints_a_table_and_says_that_all_is_within_tolerance(uncompiled_version):
    done = run("verify", str(uncompiled_version))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["signature", "batch", "first", "call", "next", "call", "score", "map"]
    assert len([line for line in lines if line.endswith("ok")]) == 12
    assert re.fullmatch(
        r"every answer is within tolerance of the reference: 12 calls and 12 warmup records in \d+ s",
        lines[-1],
    )
    assert done.stderr == "running 12 warmup records\n"


def test_a_verification_takes_the_directory_from_stdin_and_gives_one_json_object(uncompiled_version):
    arguments = ["verify", "-", "--json"]
    done = CliRunner().invoke(main, arguments, input=f"{uncompiled_version}\n")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is True
    assert report["problems"] == []
    assert len(report["rows"]) == 12
    nothing = run(*arguments)  # with an empty stdin
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "", "")


def test_inspect_shows_what_a_version_holds(exported_version):
    done = run("inspect", str(exported_version))
    assert done.returncode == 0
    for text in (
        "uint8 [batch, 32 × 32 × 3]",
        "5, from ant to eel",
        "1 × relu, guided: passes x > 0",
        "1 × relu6, guided: passes 0 < x < 6",
        "1 × swish, guided: passes x > 0",
        "xla for cpu, batch sizes 1, 4",
        "max_samples 200",
        "12 calls within tolerance",
    ):
        assert text in done.stdout, text
    assert json.loads(run("inspect", str(exported_version), "--json").stdout)["classes"] == 5


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["export", "my-modle.keras", "m"], "my-modle.keras does not exist"),
        (["export", "my-model.kreas", "m"], "my-model.kreas does not exist"),
        (["export", "ResNet50", "m", "--weights", "gone.h5"], "weights file gone.h5 does not exist"),
        (["export", "ResNet50", "m", "--labels", "gone.txt"], "labels file gone.txt does not exist"),
        (["export", "ResNet50", "m", "--labels", "empty.txt"], "labels file empty.txt is empty"),
        (["export", "ResNet50", "m", "--version", "3"], "version 3 of m exists already"),
        (["verify", "m"], "m is not an exported version"),
    ],
)
def test_cheap_mistakes_are_found_before_tensorflow_is_imported(tmp_path, arguments, error):
    (tmp_path / "my-model.keras").write_bytes(b"")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "m" / "3").mkdir(parents=True)
    check = (
        "import sys, saliency_exporter.cli\n"
        f"try: saliency_exporter.cli.main({arguments!r})\n"
        "except SystemExit as end: code = end.code\n"
        "sys.exit(99 if 'tensorflow' in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert f"error: {error}" in done.stderr.replace("model my-", "my-")
    if arguments[1].startswith("my-"):
        assert "hint: did you mean my-model.keras?" in done.stderr


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("tensorflow", "export"),
        ("tensorflow", "verify"),
        ("tensorflow", "serve"),
        ("tensorflow_serving", "export"),
        ("grpc_health", "serve"),
    ],
)
def test_what_the_extra_brings_is_named_where_it_is_missing(uncompiled_version, tmp_path, package, command):
    arguments = {
        "export": ["models:classifier", str(tmp_path / "m"), "--preprocessing", "tf", "--batch-sizes", "1"],
        "verify": [str(uncompiled_version)],
        "serve": [f"m={uncompiled_version.parent}", "--port", "0", "--no-warmup"],
    }[command]
    check = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"import saliency_exporter.cli\nsaliency_exporter.cli.main({[command, *arguments]!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=TESTS, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 1, done.stderr
    assert f"error: saliency-exporter needs the package '{package}" in done.stderr
    assert "hint: pip install 'saliency-serving[exporter]'" in done.stderr
    assert "Traceback" not in done.stderr


def here(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    """The command in this process, in a folder whose modules it can import."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "plain", raising=False)
    return CliRunner().invoke(main, arguments)


def test_a_model_without_rectifier_is_refused_and_exports_without_guided(tmp_path, monkeypatch):
    (tmp_path / "plain.py").write_text(
        "import keras\n"
        "def make():\n"
        "    layers = keras.layers\n"
        "    return keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(3)])\n"
    )
    options = ["--preprocessing", "none", "--compile", "none", "--batch-sizes", "1", "--no-verify"]
    done = here(tmp_path, monkeypatch, "export", "plain:make", "m", *options)
    assert done.exit_code == 1
    assert "no rectifier" in done.stderr
    assert "--methods gradients,smooth" in done.stderr
    assert not (tmp_path / "m").exists()
    done = here(tmp_path, monkeypatch, "export", "plain:make", "m", *options, "--methods", "gradients,smooth")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "m" / "1" / "saved_model.pb").exists()


@pytest.mark.parametrize(("classes", "head"), [(3, "softmax"), (1, "sigmoid")])
def test_export_says_where_it_takes_an_output_for_logits(tmp_path, monkeypatch, classes, head):
    (tmp_path / "plain.py").write_text(
        "import keras\n"
        "def make():\n"
        "    layers = keras.layers\n"
        f"    return keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense({classes})])\n"
    )
    options = ["--preprocessing", "none", "--compile", "none", "--batch-sizes", "1", "--no-verify"]
    done = here(tmp_path, monkeypatch, "export", "plain:make", "m", *options, "--methods", "gradients")
    assert done.exit_code == 0, done.stderr
    assert "note: the model ends in neither softmax nor sigmoid" in done.stderr
    assert f"probabilities are their {head}\n" in done.stderr


def test_export_ends_with_the_server_that_it_needs_and_what_a_newer_tensorflow_means():
    server = {
        "oldest": "2.18",
        "made_with": "2.99",
        "flag": "--xla_cpu_compilation_enabled",
        "why": ["so it is"],
    }
    sentence, note = _closing_lines({"score": {"head_assumed": False}, "server": server})
    flag = "started with --xla_cpu_compilation_enabled"
    assert sentence == f"to be served by TensorFlow Serving 2.18 or newer, {flag}: so it is"
    assert note.startswith("note: TensorFlow 2.99 made this export")
    not_newer = {**server, "made_with": "2.18"}
    assert len(_closing_lines({"score": {"head_assumed": False}, "server": not_newer})) == 1


def test_debugging_shows_the_traceback(tmp_path):
    done = run("inspect", str(tmp_path), SALIENCY_DEBUG="1")
    assert "Traceback" in done.stderr
