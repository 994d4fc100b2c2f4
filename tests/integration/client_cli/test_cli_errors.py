"""A failure is two plain lines and an exit code that says what kind it was."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
import scripted_server
from cli_harness import Cli, Run, known_model
from PIL import Image
from scripted_server import ScriptedServer, serving

from saliency_client.cli.errors import run as run_to_exit

ESCAPE = "\x1b[31m\x1b]0;owned\x07\x9b31m\u202e"


def refuse(code: grpc.StatusCode, details: str = "no") -> object:
    def answer(request: object, context: grpc.ServicerContext) -> None:
        context.abort(code, details)

    return answer


def is_plain(run: Run) -> bool:
    return not any(character in run.out + run.err for character in "\x1b\x07\x9b\u202e")


@pytest.mark.usefixtures("hasty")
def test_a_server_that_is_down_is_78_and_says_what_to_check(cli: Cli, photo: Path) -> None:
    run = cli("explain", photo, "--server", "127.0.0.1:1")
    assert run.code == 64 + 14
    assert run.err.startswith("error: no server answers at 127.0.0.1:1")
    assert "hint: check that TensorFlow Serving runs there" in run.err
    assert "Traceback" not in run.err
    assert run.out == ""
    assert cli.files() == {"cat.png"}


def test_an_unknown_model_is_69(cli: Cli, photo: Path) -> None:
    for command in (["explain", photo], ["predict", photo], ["status"], ["signatures"], ["bench"]):
        run = cli(*command, "--model", "nonesuch")
        assert run.code == 64 + 5, command
        assert "nonesuch" in run.err
        assert "--model" in run.err


def test_an_unknown_label_is_67(cli: Cli, photo: Path) -> None:
    run = cli("explain", photo, "--label", "stable")
    assert run.code == 64 + 3
    assert "Unrecognized servable version label: stable" in run.err


def test_a_class_out_of_range_is_67_in_the_servers_words(cli: Cli, photo: Path) -> None:
    run = cli("explain", photo, "--class-index", 99)
    assert run.code == 64 + 3
    assert "class_index 99 is outside [-1, 4)" in run.err
    assert "`saliency-client signatures`" in run.err


def test_a_server_that_takes_too_long_is_68(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    ended = threading.Event()
    server.script.append(lambda *_: ended.wait(5))
    run = cli("explain", photo, "--timeout", 0.2)
    ended.set()
    assert run.code == 64 + 4
    assert "--timeout" in run.err


def test_a_failure_of_one_image_among_several_is_1(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    (cli.folder / "dog.png").write_bytes(photo.read_bytes())
    # The two together, then the first alone.
    server.script += [refuse(grpc.StatusCode.INTERNAL, "out of luck")] * 2
    run = cli("explain", "cat.png", "dog.png", "--concurrency", 1, "--json")
    assert run.code == 1
    failed, explained = run.records
    assert failed["status"] == "failed"
    assert failed["code"] == "INTERNAL"
    assert "out of luck" in failed["error"]
    assert explained["status"] == "ok"
    assert "error: cat.png: " in run.err


@pytest.mark.parametrize(
    ("command", "method", "hint"),
    [
        ("explain", "smoth", "did you mean smooth?"),
        ("bench", "smoth", "did you mean smooth?"),
        ("bench", "predct", "did you mean predict?"),
        ("explain", "lime", "choose one with --method"),
        ("bench", "lime", "choose one with --method or predict"),
    ],
)
def test_an_unknown_method_is_wrong_usage_and_those_on_offer_are_listed(
    cli: Cli, photo: Path, command: str, method: str, hint: str
) -> None:
    run = cli(command, photo, "--method", method)
    assert (run.code, run.out) == (2, "")
    offered = "it offers gradients, smooth"
    assert run.err == f"error: the model offers no method {method!r}; {offered}\nhint: {hint}\n"


@pytest.mark.parametrize("command", ["explain", "bench"])
def test_a_model_without_methods_is_a_failure_whatever_method_is_typed(
    cli: Cli, photo: Path, server: ScriptedServer, command: str
) -> None:
    server.hidden |= {"explain_gradients", "explain_smooth", "parameter_defaults"}
    run = cli(command, photo)
    assert run.code == 1
    assert "the model offers no method 'gradients'; it offers none" in run.err
    assert "hint: export it with saliency-exporter" in run.err


@pytest.mark.parametrize("command", [["predict", "cat.png"], ["bench", "--method", "predict"]], ids=" ".join)
def test_signatures_of_tensorflows_own_are_not_listed(
    cli: Cli, photo: Path, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    original = scripted_server.signature_defs

    def with_own(model: object) -> object:
        return {**original(model), "__saved_model_init_op": scripted_server.signature_def({}, {}, {})}

    monkeypatch.setattr(scripted_server, "signature_defs", with_own)
    server.hidden |= {"serving_default", "explain_smooth", "parameter_defaults"}
    run = cli(*command)
    listed = "class_labels, explain_gradients"
    assert (run.code, run.err) == (1, f"error: the model has no signature serving_default; it has {listed}\n")


@pytest.mark.parametrize("command", ["explain", "predict", "status", "signatures", "bench"])
def test_a_server_and_a_model_are_asked_for(cli: Cli, photo: Path, command: str) -> None:
    arguments = [command, "cat.png"] if command in ("explain", "predict") else [command]
    run = cli(*arguments, SALIENCY_SERVER="")
    assert (run.code, "no server is given" in run.err) == (2, True)
    assert "SALIENCY_SERVER" in run.err
    run = cli(*arguments, SALIENCY_MODEL="")
    assert (run.code, "no model is given" in run.err) == (2, True)


@pytest.mark.parametrize("variable", ["SALIENCY_SERVER", "SALIENCY_MODEL"])
def test_a_server_and_a_model_are_asked_for_before_a_file_is_looked_at(
    cli: Cli, photo: Path, variable: str
) -> None:
    (cli.folder / "cat-gradients.png").touch()
    for command in (
        ["explain", photo],
        ["explain", photo, "--skip-existing"],
        ["explain", "gone.png"],
        ["predict", "gone.png"],
        ["bench", "gone.png"],
    ):
        run = cli(*command, **{variable: ""})
        assert (run.code, run.out) == (2, ""), command
        assert run.err.startswith(f"error: no {variable.removeprefix('SALIENCY_').lower()} is given"), command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--server", "http://localhost:8501"], "is a URL"),
        (["--server", "localhost"], "is not 'host:port'"),
        (["--version", "1", "--label", "stable"], "give one of them"),
        (["--metadata", "tenant"], "is not KEY=VALUE"),
        (["--metadata", "Tenant=a"], "metadata key"),
        (["--cert", "cat.png"], "mutual TLS needs both"),
        (["--ca", "cat.png"], "TLS ca is not PEM"),
        (["--ca", "nonesuch.pem"], "does not exist"),
    ],
)
def test_connection_options_that_cannot_work_are_usage_errors(
    cli: Cli, photo: Path, options: list[str], message: str
) -> None:
    run = cli("explain", photo, *options)
    assert run.code == 2, run.err
    assert message in run.err


def test_a_token_is_sent_from_a_file_or_the_environment(
    cli: Cli, photo: Path, server: ScriptedServer
) -> None:
    (cli.folder / "token").write_text("from-file\n")
    assert cli("explain", photo, "--token-file", "token").code == 0
    assert server.metadata[-1]["authorization"] == "Bearer from-file"
    assert cli("explain", photo, "--overwrite", SALIENCY_TOKEN="from-environment").code == 0
    assert server.metadata[-1]["authorization"] == "Bearer from-environment"
    assert cli("explain", photo, "--overwrite", "--metadata", "x-tenant=a=b").code == 0
    assert server.metadata[-1]["x-tenant"] == "a=b"


def test_a_token_is_not_sent_in_plain_text_over_a_network(cli: Cli, photo: Path) -> None:
    run = cli("explain", photo, "--server", "models.example.org:8500", SALIENCY_TOKEN="secret")
    assert run.code == 2
    assert "hint: give --tls" in run.err
    assert "secret" not in run.err


@pytest.mark.parametrize("options", [[], ["--json"], ["--verbose"]], ids=" ".join)
def test_a_token_is_in_nothing_that_the_command_says(
    cli: Cli, photo: Path, server: ScriptedServer, options: list[str]
) -> None:
    server.fail(grpc.StatusCode.UNAUTHENTICATED, "no", times=9)
    run = cli("explain", photo, *options, SALIENCY_TOKEN="sekret-7d1f")
    assert run.code != 0
    assert server.metadata[-1]["authorization"] == "Bearer sekret-7d1f"
    assert "UNAUTHENTICATED" in run.out + run.err
    assert "sekret" not in run.out + run.err


def test_nothing_that_others_say_acts_on_the_terminal(cli: Cli, server: ScriptedServer) -> None:
    name = f"cat{ESCAPE}.png"
    Image.new("RGB", (24, 24), "blue").save(cli.folder / name, format="PNG")
    Image.new("RGB", (24, 24), "blue").save(cli.folder / "dog.png")

    def evil(response: object) -> None:
        response.outputs["label"].string_val[:] = [f"cat{ESCAPE}".encode()]

    server.tamper = evil
    for mode in ([], ["--json"], ["-q"], ["-v"]):
        run = cli("explain", name, "dog.png", "--overwrite", *mode)
        assert run.code == 0
        assert is_plain(run), mode
        assert is_plain(cli("explain", name, *mode, "--style", "panel", "--overwrite"))
        assert is_plain(cli("predict", name, *mode))
    server.script.extend([refuse(grpc.StatusCode.INTERNAL, f"no{ESCAPE}\nerror: fake")] * 8)
    for mode in ([], ["--json"], ["-q"], ["-v"]):
        run = cli("explain", name, "--overwrite", *mode)
        assert run.code == 64 + 13
        assert is_plain(run), mode
        assert [line for line in run.err.splitlines() if line.startswith("error:")] == run.err.splitlines()[
            -1:
        ]
    for arguments in (
        ["explain", ESCAPE],
        ["explain", f"http://{ESCAPE}"],
        ["explain", f"*{ESCAPE}"],
        [ESCAPE],
    ):
        run = cli(*arguments)
        assert run.code in (1, 2)
        assert is_plain(run), arguments


def test_json_keeps_a_strange_name_so_that_it_can_be_opened(cli: Cli) -> None:
    name = f"cat{ESCAPE}.png"
    Image.new("RGB", (24, 24), "blue").save(cli.folder / name, format="PNG")
    record = cli("explain", name, "--json").record
    assert record["image"] == name
    assert Image.open(cli.folder / record["file"]).size == (240, 240)  # ten times


def test_a_name_that_is_not_text_works(cli: Cli, environment: dict[str, str], program: list[str]) -> None:
    name = b"caf\xe9.png"
    Image.new("RGB", (24, 24), "blue").save(
        os.path.join(os.fsencode(cli.folder), name).decode("utf-8", "surrogateescape"), format="PNG"
    )
    for mode in ([], ["--json"], ["-q"]):
        done = subprocess.run(
            [*program, "explain", name, "--overwrite", *mode],
            cwd=cli.folder,
            env={**os.environ, **environment, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert b"caf" in done.stdout


@pytest.mark.filterwarnings("ignore::RuntimeWarning:scripted_server")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_map_that_is_not_finite_gives_an_error_and_no_picture(
    cli: Cli, photo: Path, server: ScriptedServer, value: float
) -> None:
    server.model.weights[2, 0, 0, 0] = value
    for style in ("overlay", "heatmap", "masked", "panel"):
        run = cli("explain", photo, "--class-index", 2, "--style", style)
        assert run.code == 1
        assert "NaN or infinite" in run.err
    assert cli.files() == {"cat.png"}
    run = cli("explain", photo, "--class-index", 2, "-f", "npz", "--json")
    assert run.code == 0, run.err
    assert run.record["score"] is None  # JSON has no NaN


def test_an_error_that_is_not_a_number_is_unknown(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    """A smooth map of zeros has no relative error: 0 / 0."""

    def tamper(response: object) -> None:
        response.outputs["relative_error"].float_val[:] = [np.nan]

    server.tamper = tamper
    run = cli("explain", photo, "-M", "smooth", "--json")
    assert run.record["relative_error"] is None
    with Image.open(cli.folder / "cat-smooth.png") as picture:
        assert "NaN" not in picture.info["Saliency"]
    assert "nan" not in cli("explain", photo, "-M", "smooth", "--overwrite").out


def test_pillows_warnings_do_not_reach_the_terminal(
    cli: Cli, environment: dict[str, str], program: list[str]
) -> None:
    exif = b"Exif\0\0MM\0*\xff\xff\xff\xff"
    Image.new("RGB", (24, 24), "blue").save(cli.folder / "cat.png", exif=exif)
    done = subprocess.run(
        [*program, "explain", "cat.png"],
        cwd=cli.folder,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_tls_to_a_server_without_it_is_two_lines_and_gRPCs_own_words_stay_out(
    cli: Cli, environment: dict[str, str], program: list[str], server: ScriptedServer
) -> None:
    done = subprocess.run(
        [*program, "status", "--tls"],
        cwd=cli.folder,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=60,
        check=False,
        text=True,
    )
    assert done.returncode == 64 + 14
    error, hint = done.stderr.splitlines()
    assert error.startswith(f"error: {server.target} answers without TLS (UNAVAILABLE: ")
    assert hint.endswith("or none of them where it has none")


def test_a_missing_image_is_named(cli: Cli, server: ScriptedServer) -> None:
    run = cli("explain", "gone.png")
    assert (run.code, run.err) == (1, "error: gone.png does not exist\n")


NOBODY = "127.0.0.1:1"
"""Nothing listens there: what is told before a connection is told all the same."""


@pytest.mark.parametrize("command", ["explain", "predict", "bench"])
def test_a_missing_image_is_told_before_a_server_is_asked(cli: Cli, command: str) -> None:
    run = cli(command, "gone.png", "--server", NOBODY)
    assert (run.code, run.err) == (1, "error: gone.png does not exist\n")
    assert cli.files() == set()


@pytest.mark.parametrize("command", ["explain", "predict"])
def test_images_that_are_missing_are_told_first_and_the_others_go_on(
    cli: Cli, photo: Path, server: ScriptedServer, command: str
) -> None:
    asked = server.metadata_calls
    run = cli(command, "cat.png", "gone.png", "lost.png", "--json")
    assert run.code == 1
    assert [(one["image"], one["status"]) for one in run.records] == [
        ("gone.png", "failed"),
        ("lost.png", "failed"),
        ("cat.png", "ok"),
    ]
    assert run.records[0]["error"] == "gone.png does not exist"
    again = ["--overwrite"] if command == "explain" else []
    stopped = cli(command, "cat.png", "gone.png", "--fail-fast", "--json", *again, "--server", NOBODY)
    assert (stopped.code, [one["status"] for one in stopped.records]) == (1, ["failed"])
    assert server.metadata_calls == asked + 1


def test_missing_images_count_as_failed(cli: Cli, photo: Path) -> None:
    run = cli("explain", "cat.png", "gone.png")
    assert run.err.splitlines()[-1].startswith("1 explained, 1 failed in")
    run = cli("explain", "gone.png", "lost.png", "--server", NOBODY)
    assert (run.code, run.err.splitlines()[-1][:23]) == (1, "0 explained, 2 failed i")


@pytest.mark.parametrize("command", ["explain", "predict"])
def test_a_broken_file_of_names_is_told_before_a_server_is_asked(cli: Cli, photo: Path, command: str) -> None:
    (cli.folder / "names").write_text("ant\n\nbee\n")
    run = cli(command, photo, "--labels", "names", "--server", NOBODY)
    assert (run.code, "has an empty name for class 1" in run.err) == (1, True)


@pytest.mark.parametrize(
    "command",
    [
        ["status", "--timeout", "nan"],
        ["status", "--wait", "nan"],
        ["status", "--timeout", "0"],
        ["bench", "--duration", "nan"],
        ["bench", "--duration", "inf"],
        ["bench", "--duration", "1e10"],
    ],
    ids=" ".join,
)
def test_a_time_that_is_none_and_a_measurement_without_end_are_usage_errors(
    cli: Cli, command: list[str]
) -> None:
    run = cli(*command, "--server", NOBODY)
    assert (run.code, run.out) == (2, "")
    assert command[1] in run.err


@pytest.mark.parametrize("value", ["inf", "1e10", str(sys.maxsize)])
def test_a_limit_without_end_is_no_limit(cli: Cli, value: str) -> None:
    assert cli("status", "--timeout", value, "--wait", value, "--quiet").out == "AVAILABLE\n"


CERTIFICATES = Path(__file__).parents[1] / "client" / "certificates"


@pytest.mark.usefixtures("hasty")
def test_a_server_with_tls_that_is_met_without_gets_a_hint_at_the_option(cli: Cli) -> None:
    names = ("server.key", "server.pem")
    credentials = grpc.ssl_server_credentials([tuple((CERTIFICATES / name).read_bytes() for name in names)])
    with serving(known_model(), credentials=credentials) as server:
        for code, wait in ((78, []), (68, ["--wait", "0.3"])):
            run = cli("status", "--server", server.target, *wait)
            assert run.code == code
            assert "it may want TLS or a client certificate (--tls, --ca, --cert, --key)" in run.err

        trusted = ["--ca", CERTIFICATES / "ca.pem", "--server-name", "serving.test"]
        assert cli("status", "--server", server.target, *trusted, "--quiet").out == "AVAILABLE\n"


def test_a_file_of_tls_of_another_kind_is_named_with_what_it_holds(cli: Cli) -> None:
    run = cli("status", "--ca", CERTIFICATES / "server.key")
    assert run.code == 2
    assert "TLS ca holds a private key, and not a certificate: " in run.err
    assert "server.key" in run.err
    assert "hint: --ca takes a certificate" in run.err


@pytest.mark.usefixtures("hasty")
def test_a_proxy_that_fails_is_named_with_its_variable(cli: Cli) -> None:
    for wait in ([], ["--wait", "0.3"]):
        variables = {"http_proxy": f"http://someone:hidden@{NOBODY}", "no_proxy": "x"}
        run = cli("status", "--server", "serving.invalid:8500", *wait, **variables)
        assert f"through the proxy {NOBODY}" in run.err
        assert "http_proxy is set" in run.err
        assert "add serving.invalid to no_proxy" in run.err
        assert "hidden" not in run.err


def test_a_local_server_answers_whatever_proxy_is_set(cli: Cli) -> None:
    every = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), f"http://{NOBODY}")
    assert cli("status", "--quiet", **every).out == "AVAILABLE\n"


@pytest.mark.parametrize("option", ["--clip", "--opacity"])
def test_a_part_of_a_picture_that_is_not_a_number_is_a_usage_error(
    cli: Cli, photo: Path, option: str
) -> None:
    run = cli("explain", photo, option, "nan", "--server", NOBODY)
    assert (run.code, "nan is not a finite number" in run.err) == (2, True)


@pytest.mark.parametrize("port", ["99999", "65536", "0"])
def test_a_port_that_no_server_can_have_is_a_usage_error(cli: Cli, port: str) -> None:
    run = cli("status", "--server", f"localhost:{port}")
    assert (run.code, f"has port {port}; a port is within [1, 65535]" in run.err) == (2, True)


def test_photos_beyond_the_bound_are_refused_and_the_bound_can_be_raised(cli: Cli, photo: Path) -> None:
    run = cli("explain", photo, "--max-pixels", 2399)
    assert run.code == 1
    assert "60 x 40 is 2400 pixels, and the bound is 2399" in run.err
    assert "--max-pixels" in run.err
    before = Image.MAX_IMAGE_PIXELS
    assert cli("explain", photo, "--max-pixels", 2400).code == 0
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_photo_beyond_pillows_bound_is_read_where_that_is_asked_for(
    cli: Cli, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert cli("explain", photo).code == 1
    run = cli("explain", photo, "--max-pixels", 5000)
    assert (run.code, run.err) == (0, "")
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_traceback_is_shown_only_where_it_is_asked_for(cli: Cli) -> None:
    assert "Traceback" not in cli("explain", "gone.png").err
    run = cli("explain", "*.png", SALIENCY_DEBUG="1")
    assert run.code == 1
    assert "Traceback" in run.err
    assert "error: *.png matches no image" in run.err


def test_a_bug_is_one_line_that_asks_to_be_reported(
    cli: Cli, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("saliency_client.cli.explain_run.plan", broken)
    run = cli("explain", photo)
    assert run.code == 1
    assert run.err.startswith("error: unexpected ZeroDivisionError: oops\nhint: SALIENCY_DEBUG=1")


def test_an_interrupt_is_130_wherever_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_to_exit(interrupted)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_without_a_command_the_help_is_shown_as_written(cli: Cli) -> None:
    bare, asked = cli(), cli("--help")
    assert "Usage: saliency-client" in asked.out
    assert (bare.out + bare.err).strip() == asked.out.strip()


def test_a_wrong_command_or_option_is_2(cli: Cli) -> None:
    run = cli("explian")
    assert (run.code, run.err) == (2, "error: No such command 'explian'.\nhint: did you mean explain?\n")
    run = cli("draw")
    assert (run.code, run.err.splitlines()[0]) == (2, "error: No such command 'draw'.")
    assert run.err.splitlines()[1].startswith("hint: the commands are explain, predict")
    run = cli("explain", "--color", "red")
    assert (run.code, "No such option" in run.err) == (2, True)
    assert "hint: `saliency-client explain --help` lists the options" in run.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x" * (16 << 20) + b"x", "has more bytes than the limit of 16777216"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'["\xff"]', "is not UTF-8 (byte 2)"),
        (b'{"0": "ant"}', "holds 1 names; the model has 4 classes"),
        (b"[1, 2]", "has 1 for class 0, which is not a name"),
        (b"ant\n\ncat\ndog\n", "has an empty name for class 1"),
    ],
)
def test_a_labels_file_of_any_size_or_content_is_an_error(
    cli: Cli, photo: Path, content: bytes, words: str
) -> None:
    (cli.folder / "labels\x1b[2J").write_bytes(content)
    run = cli("explain", photo, "--labels", "labels\x1b[2J")
    assert run.code != 0
    assert words in run.err
    assert is_plain(run)
    assert "Traceback" not in run.err


def test_after_a_value_out_of_bounds_the_hint_says_where_defaults_are_and_where_bounds(
    cli: Cli, photo: Path, server: ScriptedServer
) -> None:
    server.fail(grpc.StatusCode.INVALID_ARGUMENT, "num_samples is 5000; it must be in [1, 1000]")
    run = cli("explain", photo)
    assert run.err.endswith(
        "`saliency-client signatures` lists inputs with their defaults, and their bounds where the export "
        "tells them; `saliency-exporter inspect VERSION_DIR` all bounds\n"
    )
    assert "num_samples=50" in cli("signatures").out
    # That of a release before bounds were told.
    assert "1000" not in cli("signatures", "--long").out


def test_the_bounds_of_parameters_are_shown_with_their_defaults(cli: Cli, server: ScriptedServer) -> None:
    server.model.bounded = True
    short, full = cli("signatures").out, cli("signatures", "--long").out
    assert "num_samples=50 [1, 1000]" in " ".join(short.split())
    assert "noise_level=0.15 [0, 0.9]" in " ".join(short.split())
    (line,) = [line for line in full.splitlines() if "num_samples" in line]
    assert line.split()[-3:] == ["50", "[1,", "1000]"]
    (line,) = [line for line in full.splitlines() if "seed" in line]
    assert line.split()[-1] == "0", "a seed has no bounds"
    assert "parameter_bounds" not in short + full
    inputs = cli("signatures", "--json").record["signatures"]["explain_smooth"]["inputs"]
    assert {name: (one["least"], one["greatest"]) for name, one in inputs.items()} == {
        "class_index": (-1, 3),
        "images": (None, None),
        "noise_level": (0, 0.9),
        "num_samples": (1, 1000),
        "seed": (None, None),
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-M", "smooth", "--num-samples", 1001), "num_samples is 1001; it must be in [1, 1000]"),
        (("-M", "smooth", "--param", "noise_level=1.5"), "noise_level is 1.5; it must be in [0, 0.9]"),
        (("--class-index", 4), "class_index is 4; it must be in [0, 3], or -1 for the predicted class"),
        (("--class", 4), "class_index is 4; it must be in [0, 3], or -1 for the predicted class"),
    ],
)
def test_a_value_outside_its_bounds_is_refused_before_a_file_is_read(
    cli: Cli, photo: Path, server: ScriptedServer, options: tuple[object, ...], words: str
) -> None:
    server.model.bounded = True
    photo.write_bytes(b"no picture, which nobody finds out")
    run = cli("explain", photo, *options)
    assert run.code == 2
    assert words in " ".join(run.err.split())
    assert "`saliency-client signatures` shows the bounds" in " ".join(run.err.split())
    assert server.requests == []
