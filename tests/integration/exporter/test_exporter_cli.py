from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import preloaded
import pytest
from click.testing import CliRunner, Result
from small_manifest import EXPORT

from saliency_exporter.cli import main
from saliency_exporter.cli.export import closing_lines
from saliency_exporter.runtime.servable import load_servable
from saliency_exporter.version.manifest import read_manifest
from saliency_exporter.version.server_needs import newer_than_image

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
    for command in ("export", "verify", "inspect", "serve", "serving-config", "demo", "from-vertex"):
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
    server = read_manifest(tmp_path / "m" / "1").server
    closing = ["to be served by TensorFlow Serving 2.18 or newer, without a flag for XLA; " + server.why[0]]
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


def test_a_verification_takes_the_directory_from_stdin_and_gives_one_json_object(tmp_path, monkeypatch):
    (tmp_path / "plain.py").write_text(PLAIN)
    options = ["--preprocessing", "none", "--compile", "none", "--batch-sizes", "1", "--methods", "gradients"]
    here(tmp_path, monkeypatch, "export", "plain:make", "m", *options, "--no-verify")
    arguments = ["verify", "-", "--json"]
    done = CliRunner().invoke(main, arguments, input=f"{tmp_path / 'm' / '1'}\n")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is True
    assert report["problems"] == []
    asked = [(row["signature"], row["batch_size"]) for row in report["rows"]]
    assert asked == [(s, size) for s in ("serving_default", "explain_gradients") for size in (1, 2)]
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
        "by XLA, for servers without a GPU; batch sizes 1, 4",
        "num_samples 50 (1 to 200)",
        "12 calls within tolerance",
    ):
        assert text in done.stdout, text
    assert json.loads(run("inspect", str(exported_version), "--json").stdout)["classes"] == 5


CHEAP_MISTAKES = [
    (["export", "my-modle.keras", "m"], "my-modle.keras does not exist"),
    (["export", "my-model.kreas", "m"], "my-model.kreas does not exist"),
    (["export", "ResNet50", "m", "--weights", "gone.h5"], "weights file gone.h5 does not exist"),
    (["export", "ResNet50", "m", "--labels", "gone.txt"], "labels file gone.txt does not exist"),
    (["export", "ResNet50", "m", "--labels", "empty.txt"], "labels file empty.txt is empty"),
    (["export", "ResNet50", "m", "--version", "3"], "version 3 of m exists already"),
    (["verify", "m"], "m is not an exported version"),
    (["serve", "m"], "'m' is not of the form NAME=MODEL_DIR"),
    (["serve", "a=gone"], "could not find base path gone of model a"),
    (["serve", "a=m/3"], "no version of model a to serve under m/3"),
    (["serve", "a=m", "--label", "b:stable=3"], "--label b:stable=3 is for model b, which is not served"),
    (["serve", "a=m", "--tls-cert", "cert.pem"], "TLS needs both --tls-cert and --tls-key"),
    (["serve", "a=m", "--batching-parameters-file", "empty.txt"], "--batching-parameters-file needs"),
]


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, bool]]:
    """Of each mistake, in a new interpreter: exit code, stderr, and whether it imported TensorFlow."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "my-model.keras").write_bytes(b"")
    (folder / "empty.txt").write_text("")
    (folder / "m" / "3").mkdir(parents=True)
    check = (
        "import contextlib, io, json, sys, saliency_exporter.cli\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    code, before = 0, 'tensorflow' in sys.modules\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as err:\n"
        "        try: saliency_exporter.cli.main(arguments)\n"
        "        except SystemExit as end: code = end.code\n"
        "    imported = 'tensorflow' in sys.modules and not before\n"
        "    print(json.dumps([code, err.getvalue(), imported]))\n"
    )
    given = json.dumps([arguments for arguments, _ in CHEAP_MISTAKES])
    command = [sys.executable, "-c", check, given]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(CHEAP_MISTAKES)))
def test_cheap_mistakes_are_found_before_tensorflow_is_imported(mistaken, number):
    arguments, error = CHEAP_MISTAKES[number]
    code, said, imported = mistaken[number]
    wrong_usage = ("is not of the form", "--label", "TLS needs", "--batching")
    assert code == (2 if any(words in error for words in wrong_usage) else 1), said
    assert f"error: {error}" in said.replace("model my-", "my-")
    assert not imported
    if arguments[1].startswith("my-"):
        assert "hint: did you mean my-model.keras?" in said


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


def test_a_method_that_is_not_defined_is_refused_by_name_and_left_out_by_default(tmp_path, monkeypatch):
    (tmp_path / "plain.py").write_text(
        "import keras\n"
        "def make():\n"
        "    layers = keras.layers\n"
        "    return keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(3)])\n"
    )
    options = ["--preprocessing", "none", "--compile", "none", "--batch-sizes", "1", "--no-verify"]
    named = ["--methods", "gradients,guided,smooth"]
    done = here(tmp_path, monkeypatch, "export", "plain:make", "m", *options, *named)
    assert done.exit_code == 1
    assert "no rectifier" in done.stderr
    assert "--methods gradients,smooth" in done.stderr
    assert not (tmp_path / "m").exists()
    done = here(tmp_path, monkeypatch, "export", "plain:make", "m", *options)
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "m" / "1" / "saved_model.pb").exists()
    said = " ".join(done.stderr.split())
    assert "note: guided is left out: m has no rectifier" in said
    assert "note: grad_cam is left out: m has no feature layer" in said
    assert {"gradients", "smooth"} <= set(read_manifest(tmp_path / "m" / "1").methods)


def test_a_model_that_no_asked_method_is_defined_for_is_refused(tmp_path, monkeypatch):
    (tmp_path / "plain.py").write_text(
        "import tensorflow as tf\n"
        "@tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3])])\n"
        "def coldest(x):\n"
        "    return tf.one_hot(tf.argmin(tf.reshape(x, [-1, 48])[:, :3], -1), 3)\n"
    )
    options = ["--preprocessing", "none", "--compile", "none", "--batch-sizes", "1", "--no-verify"]
    done = here(tmp_path, monkeypatch, "export", "plain:coldest", "m", *options)
    assert done.exit_code == 1
    assert "no method is defined for m: the class scores" in done.stderr
    assert not (tmp_path / "m").exists()


PLAIN = """
import keras, tensorflow as tf

def make():
    layers = keras.layers
    return keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(3)])

traced = []

@tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3])])
def counted(x):
    traced.append(x)
    return tf.reshape(x, [-1, 48])[:, :3]
"""

OWN = """
from saliency_exporter.methods.declarations import Explained, Method

def explain(model, x, parameters):
    gradients, scores, class_index = model.gradients(x, parameters["class_index"])
    return Explained(x * gradients, scores, class_index)

METHOD = Method("gradient_times_input", "attribution", "Gradient times input.", "Shrikumar 2016", explain)
SMOOTH = Method("smooth", "attribution", "Another one.", "nobody", explain)
"""


def test_a_method_of_the_users_own_is_exported_beside_the_others(tmp_path):
    (tmp_path / "plain.py").write_text(PLAIN)
    (tmp_path / "own_methods.py").write_text(OWN)
    options = ["--preprocessing", "none", "--compile", "none", "--batch-sizes", "1", "--methods", "gradients"]
    own = ["--method", "own_methods:METHOD"]
    done = run("export", "plain:make", "m", *options, *own, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "m" / "1")
    assert list(manifest.methods) == ["gradients", "gradient_times_input"]
    assert any(row.signature == "explain_gradient_times_input" for row in manifest.verification.rows)
    servable = load_servable(tmp_path / "m" / "1")
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    feeds = {"images": x, "class_index": np.array([2, 0], np.int32)}
    gradients = servable.predict("explain_gradients", feeds)["gradients"]
    attributions = servable.predict("explain_gradient_times_input", feeds)["attributions"]
    servable.close()
    np.testing.assert_allclose(attributions, x * gradients, rtol=1e-5)
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "m" / "1")]).stdout
    assert "gradient_times_input" in shown


@pytest.mark.parametrize(
    ("methods", "error"),
    [
        (["own_methods:SMOOTH"], "--method own_methods:SMOOTH: there is another method named 'smooth'"),
        (["own_methods:METHOD"] * 2, "there is another method named 'gradient_times_input'"),
        (["own_methods:explain"], "own_methods:explain is a function, not a saliency_exporter"),
        (["own_methods:GONE"], "has no 'GONE'"),
        (["gone:METHOD"], "there is no Python module 'gone'"),
    ],
)
def test_a_method_that_cannot_be_taken_is_an_error(tmp_path, monkeypatch, methods, error):
    (tmp_path / "plain.py").write_text(PLAIN)
    (tmp_path / "own_methods.py").write_text(OWN)
    monkeypatch.delitem(sys.modules, "own_methods", raising=False)
    options = [word for method in methods for word in ("--method", method)]
    done = here(
        tmp_path, monkeypatch, "export", "plain:make", "m", "--preprocessing", "none", "--no-verify", *options
    )
    assert done.exit_code == 1
    assert error in done.stderr
    assert not (tmp_path / "m").exists()


def test_labels_cost_no_further_trace(tmp_path, monkeypatch):
    (tmp_path / "plain.py").write_text(PLAIN)
    (tmp_path / "names.txt").write_text("ant\nbee\ncow\n")
    (tmp_path / "four.txt").write_text("ant\nbee\ncow\ndog\n")
    options = ["--preprocessing", "none", "--compile", "none", "--batch-sizes", "1", "--methods", "gradients"]
    from saliency_exporter.version import write

    traces = []
    trace = write.trace
    for target in ("saliency_exporter.version.write.trace", "saliency_exporter.graph.trace.trace"):
        monkeypatch.setattr(target, lambda *a, **k: traces.append(1) or trace(*a, **k))
    arguments = ["export", "plain:counted", "m", *options, "--no-verify", "--labels"]
    done = here(tmp_path, monkeypatch, *arguments, "names.txt")
    assert done.exit_code == 0, done.stderr
    assert read_manifest(tmp_path / "m" / "1").labels == ("ant", "bee", "cow")
    assert len(traces) == 1
    done = here(tmp_path, monkeypatch, *arguments, "four.txt")
    assert done.exit_code == 1
    assert "error: there are 4 labels for 3 classes; each class needs one" in done.stderr
    assert "hint: remove the background class from the file" in done.stderr


def test_a_preprocessing_with_an_if_on_a_tensor_is_exported(tmp_path, monkeypatch):
    (tmp_path / "plain.py").write_text(
        PLAIN + "\ndef scaled(x):\n    if tf.reduce_max(x) > 1.0:\n        return x / 255.0\n    return x\n"
    )
    options = ["--compile", "none", "--batch-sizes", "1", "--methods", "gradients", "--no-verify"]
    done = here(
        tmp_path, monkeypatch, "export", "plain:make", "m", *options, "--preprocessing", "plain:scaled"
    )
    assert done.exit_code == 0, done.stderr


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


@pytest.mark.parametrize(("preprocessing", "said"), [("tf", True), ("pixels", False)])
def test_export_and_inspect_say_where_pixels_are_scaled_twice(tmp_path, monkeypatch, preprocessing, said):
    (tmp_path / "scaling.py").write_text(
        "import keras\n"
        "def make():\n"
        "    layers = keras.layers\n"
        "    return keras.Sequential([keras.Input((4, 4, 3)), layers.Rescaling(1 / 255), layers.Flatten(),\n"
        "                             layers.Dense(3, activation='softmax')])\n"
    )
    options = ["--preprocessing", preprocessing, "--compile", "none", "--batch-sizes", "1", "--no-verify"]
    done = here(tmp_path, monkeypatch, "export", "scaling:make", "m", *options, "--methods", "gradients")
    assert done.exit_code == 0, done.stderr
    # 2 / 255 of -1..1 is all that is left.
    sentence = (
        "so that its network sees -0.00392..0.00392: maps and classes are probably of wrongly scaled pixels"
    )
    assert (sentence in done.stderr) is said
    shown = here(tmp_path, monkeypatch, "inspect", "m/1")
    assert ("wrongly scaled pixels" in " ".join(shown.stdout.split())) is said


HEADS = """
import keras

layers = keras.layers

def one():
    return keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(1, activation="sigmoid")])

def average():
    x = keras.Input((4, 4, 3))
    y = layers.Flatten()(x)
    return keras.Model(x, layers.Average()([layers.Dense(3, activation="softmax")(y) for _ in range(2)]))

def frames():
    return keras.Sequential([keras.Input((4, 4, 3)), layers.Conv2D(3, 3), layers.Softmax(name="p")])
"""


@pytest.mark.parametrize(
    ("model", "options", "note", "score"),
    [
        ("one", ["--labels", "two.txt"], "class 0 the negative logit and 1 - p", ("sigmoid", False, True)),
        ("average", [], "is explained as it is, as with --score output", ("output", True, False)),
        (
            "frames",
            ["--output", "[-1,mean]"],
            "hint: explain one position, --output 'p[0,0]' to 'p[1,1]'",
            None,
        ),
        ("frames", ["--output", "p[mean]"], "to be served by", ("softmax", False, False)),
    ],
)
def test_export_says_what_the_score_is(tmp_path, monkeypatch, model, options, note, score):
    (tmp_path / "plain.py").write_text(HEADS)
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    options += ["--preprocessing", "none", "--compile", "none", "--batch-sizes", "1", "--no-verify"]
    done = here(tmp_path, monkeypatch, "export", f"plain:{model}", "m", *options, "--methods", "gradients")
    assert note in done.stderr
    assert done.exit_code == (score is None)
    if score is not None:
        found = read_manifest(tmp_path / "m" / "1").score
        assert (found.head, found.is_probability, found.both_of_one) == score
        assert not found.head_assumed


def test_export_ends_with_the_server_that_it_needs_and_what_a_newer_tensorflow_means():
    def of(**changes: object) -> list[str]:
        return closing_lines(replace(EXPORT, server=replace(EXPORT.server, **changes)))

    flag = "--xla_cpu_compilation_enabled"
    sentence, note = of(made_with="2.99", flag=flag, why=("so it is",))
    assert sentence == f"to be served by TensorFlow Serving 2.18 or newer, started with {flag}; so it is"
    assert note.startswith("note: TensorFlow 2.99 made this export")
    assert len(of(made_with="2.18")) == 1


def test_bash_can_complete():
    done = run("completion", "bash")
    assert (done.returncode, done.stderr) == (0, "")
    assert "_SALIENCY_EXPORTER_COMPLETE=bash_complete" in done.stdout


def test_debugging_shows_the_traceback(tmp_path):
    done = run("inspect", str(tmp_path), SALIENCY_DEBUG="1")
    assert "Traceback" in done.stderr
