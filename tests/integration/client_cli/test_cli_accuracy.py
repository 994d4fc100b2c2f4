"""How sure a map is, in the command: --target-error, notes with a next step, an error that falls in sight.

Of the scripted method the relative error after n samples is λ/√(n − 1 − λ²), with λ = 18 · noise_level: 2.06
at 10 samples, 0.79 at 20, 0.48 at 40, 0.32 at 80, 0.28 at 100.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_harness import Cli
from PIL import Image
from scripted_server import ScriptedServer, from_proto
from test_cli_terminal import SECONDS, copies, plain, shown_on_terminal

SMOOTH = ("-M", "smooth")
TARGET = (*SMOOTH, "--target-error", "0.3", "--num-samples", "1000")


@pytest.fixture
def sampled(server: ScriptedServer) -> ScriptedServer:
    server.model.sampled = True
    return server


def sent(server: ScriptedServer, name: str) -> list[float]:
    return [from_proto(request.inputs[name]).tolist()[0] for request in server.requests]


def test_the_target_is_sent_and_what_it_took_is_told(cli: Cli, photo: Path, sampled: ScriptedServer) -> None:
    run = cli("explain", photo, *TARGET, "--json")
    assert (sent(sampled, "target_error"), sent(sampled, "num_samples")) == ([np.float32(0.3)], [1000])
    # The first multiple of ten where 2.7/√(n − 8.29) is at most 0.3: 89.29.
    assert run.record["outputs"]["samples_used"] == 90
    assert run.record["relative_error"] == pytest.approx(0.2987, abs=1e-4)
    assert (run.record["notes"], run.err) == ([], "")
    run = cli("explain", photo, *TARGET, "--overwrite")
    assert "relative error 0.30, samples used 90" in run.out


def test_a_pipe_and_quiet_and_json_take_one_request(cli: Cli, photo: Path, sampled: ScriptedServer) -> None:
    for mode in ([], ["-q"], ["--json"]):
        assert cli("explain", photo, *TARGET, "--overwrite", *mode).code == 0
    assert sent(sampled, "first_sample") == [0, 0, 0]
    _, written = shown_on_terminal(cli, "explain", photo.name, *TARGET, "--overwrite", "--json")
    _, quiet = shown_on_terminal(cli, "explain", photo.name, *TARGET, "--overwrite", "-q")
    assert sent(sampled, "first_sample") == [0] * 5
    assert "sampling" not in written + quiet


def test_at_a_terminal_the_error_is_seen_to_fall(cli: Cli, photo: Path, sampled: ScriptedServer) -> None:
    drawn = {
        words: threading.Event() for words in ("2.06 after 10", "0.79 after", "0.48 after", "0.32 after")
    }

    def seen(written: str) -> None:
        for words, event in drawn.items():
            if words in plain(written):
                event.set()

    def when_drawn(event: threading.Event) -> Callable[..., None]:
        def wait(*_: object) -> None:
            event.wait(SECONDS)

        return wait

    # Each slice is answered when what was known before it has been drawn.
    sampled.script += [lambda *_: None, *map(when_drawn, drawn.values())]
    code, written = shown_on_terminal(cli, "explain", photo.name, *TARGET, columns=140, watch=seen)
    text = plain(written)
    assert code == 0, text
    assert "smooth: relative error 2.06 after 10 of about 480; target 0.3" in text
    # Later frames may come and go between two drawings.
    assert "smooth: relative error 2.06 → 0.79 after" in text
    assert "samples used 100" in text
    # What moved is gone before results and notes come.
    assert text.rindex("0.79") < text.index("class 2 (2)")
    assert sent(sampled, "first_sample") == [0, 10, 20, 40, 80]
    assert sent(sampled, "target_error") == [0] * 5
    with Image.open(cli.folder / "cat-smooth.png") as drawn:
        facts = json.loads(drawn.info["Saliency"])
    assert facts["outputs"]["samples_used"] == 100
    assert facts["parameters"] == {"num_samples": 1000, "target_error": 0.3}


def test_the_picture_of_slices_is_that_of_one_request(cli: Cli, photo: Path, sampled: ScriptedServer) -> None:
    options = ["explain", photo.name, *SMOOTH, "--noise-level", "0.1", "-f", "npz"]
    code, _ = shown_on_terminal(
        cli, *options, "--target-error", "0.4", "--num-samples", "25", "-o", "slices.npz"
    )
    assert (code, sent(sampled, "first_sample")) == (0, [0, 10, 20])
    assert cli(*options, "--num-samples", 25, "-o", "one.npz").code == 0
    with np.load(cli.folder / "slices.npz") as slices, np.load(cli.folder / "one.npz") as one:
        assert set(slices) == set(one)
        for name in one:
            if one[name].dtype.kind == "f":
                np.testing.assert_allclose(slices[name], one[name], rtol=1e-5, atol=1e-7, err_msg=name)
            else:
                np.testing.assert_array_equal(slices[name], one[name])


def test_many_photos_and_several_baselines_go_without_slices(
    cli: Cli, photo: Path, sampled: ScriptedServer
) -> None:
    code, written = shown_on_terminal(cli, "explain", *copies(photo, 3), *TARGET, "--concurrency", "1")
    assert code == 0, written
    assert "relative error 2.06" not in plain(written)
    assert set(sent(sampled, "first_sample")) == {0}
    assert plain(written).count("±30 %") == 3


def test_classes_of_one_photo_fall_together(cli: Cli, photo: Path, sampled: ScriptedServer) -> None:
    code, written = shown_on_terminal(cli, "explain", photo.name, *TARGET, "--top", "2")
    assert code == 0, written
    assert [from_proto(one.inputs["class_index"]).tolist() for one in sampled.requests[1:]] == [[2, 1]] * 5


def test_a_map_that_is_mostly_noise_is_told_with_what_half_takes(
    cli: Cli, photo: Path, sampled: ScriptedServer
) -> None:
    run = cli("explain", photo.name, *SMOOTH, "--num-samples", 14)
    # 2.7/√5.71 = 1.13; 14 · (1.13/0.5)² = 71.5.
    note = (
        "the map is mostly noise: its relative error is 1.13 after 14 samples; about 80 bring it to 0.5: "
        "--num-samples 80"
    )
    assert run.err == f"note: cat.png: {note}\n"
    assert "relative error 1.13 (mostly noise), samples used 14" in run.out
    assert cli("explain", photo, *SMOOTH, "--num-samples", 14, "--json", "--overwrite").record["notes"] == [
        note
    ]
    # The next step can be taken.
    assert "note" not in cli("explain", photo, *SMOOTH, "--num-samples", 80, "--overwrite").err


def test_a_map_without_signal_is_told_in_words_and_json_stays_valid(
    cli: Cli, photo: Path, sampled: ScriptedServer
) -> None:
    run = cli("explain", photo, *SMOOTH, "--num-samples", 8)
    assert "relative error infinite (no signal yet), samples used 8" in run.out
    assert "8 samples show no signal above it" in run.err
    assert "--num-samples 80" in run.err
    with Image.open(cli.folder / "cat-smooth.png") as drawn:
        facts = json.loads(drawn.info["Saliency"], parse_constant=pytest.fail)
    assert "relative_error" not in facts
    run = cli("explain", photo, *SMOOTH, "--num-samples", 8, "--json", "--overwrite")
    record = json.loads(run.out, parse_constant=pytest.fail)
    assert record["relative_error"] is None
    assert "no signal" in record["notes"][0]
    rows = cli("explain", *copies(photo, 2), *SMOOTH, "--num-samples", 8)
    assert rows.out.count("±∞") == 2
    one = cli("explain", photo, *SMOOTH, "--num-samples", 1, "--json", "--overwrite").record
    assert (one["relative_error"], one["notes"]) == (None, [])
    assert one["outputs"] == {"samples_used": 1, "standard_error": None}


@pytest.mark.parametrize(("columns", "words"), [(80, "target 0.3"), (40, "…")])
def test_what_moves_stays_on_one_row_of_a_narrow_terminal(
    cli: Cli, photo: Path, sampled: ScriptedServer, columns: int, words: str
) -> None:
    drawn = threading.Event()
    sampled.script += [lambda *_: None, lambda *_: drawn.wait(SECONDS) and None]

    def seen(written: str) -> None:
        if re.search(f"2\\.06.*{words}", plain(written)):
            drawn.set()

    code, written = shown_on_terminal(cli, "explain", photo.name, *TARGET, columns=columns, watch=seen)
    assert code == 0, plain(written)
    assert drawn.is_set()
    # A second row would be erased by going up to it.
    assert "\x1b[2K\x1b[1A" not in written


def test_a_target_that_is_missed_is_told_with_what_it_takes(
    cli: Cli, photo: Path, sampled: ScriptedServer
) -> None:
    run = cli("explain", photo, *SMOOTH, "--target-error", 0.05)
    assert (
        "its relative error is 0.42 after 50 samples, and 0.05 was asked for; about 3500 bring it" in run.err
    )
    assert "--num-samples 3500 (an export allows 1000 in a call, unless it was made with" in run.err


def test_a_method_without_a_target_is_a_usage_error_that_names_one_that_has(
    cli: Cli, photo: Path, sampled: ScriptedServer
) -> None:
    run = cli("explain", photo, "--target-error", 0.3)
    assert run.code == 2
    assert run.err == (
        "error: explain_gradients takes no target_error; it takes class_index=-1\n"
        "hint: target_error is a parameter of smooth\n"
    )
    assert sampled.requests == []
    assert cli("explain", photo, "-M", "gradients,smooth", "--target-error", 0.3).code == 0


def test_an_older_export_is_told_apart(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    run = cli("explain", photo, *TARGET)
    assert run.code == 2
    assert "explain_smooth takes no target_error" in run.err
    assert "hint: no method of this export takes target_error" in run.err
    assert "exports of this release" in run.err


def test_a_target_is_part_of_what_a_file_was_made_with(
    cli: Cli, photo: Path, sampled: ScriptedServer
) -> None:
    def again(*options: object) -> str:
        return cli("explain", photo, *SMOOTH, "--skip-existing", "--json", *options).record["status"]

    assert again("--target-error", 0.3) == "ok"
    assert again("--target-error", 0.3) == "skipped"
    assert again("--target-error", 0.4) == "ok"
    assert again() == "ok"


def test_an_interrupt_while_the_error_falls_ends_as_interrupts_do(
    cli: Cli, photo: Path, sampled: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saliency_client.cli import accuracy

    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(accuracy, "settling", interrupt)
    code, written = shown_on_terminal(cli, "explain", photo.name, *TARGET)
    assert code == 130
    assert plain(written).rstrip().endswith("interrupted")
    assert "Traceback" not in written
    assert cli.files() == {"cat.png"}


def test_shorthands_are_parameters(cli: Cli, photo: Path, server: ScriptedServer) -> None:
    server.model.shares = True
    assert (
        cli("explain", photo, "-M", "shares", "--num-steps", 5, "--json").record["outputs"]["steps_used"] == 5
    )
    run = cli("explain", photo, "-M", "shares", "--num-masks", 5, "--overwrite")
    assert (run.code, "explain_shares takes no num_masks" in run.err) == (2, True)
    assert re.search(r"--target-error R", cli("explain", "--help").out)


def test_a_gallery_counts_its_maps_that_are_mostly_noise(
    cli: Cli, photo: Path, sampled: ScriptedServer
) -> None:
    run = cli("gallery", photo.name, "--methods", "smooth", "--num-samples", 10, "-o", "page")
    assert run.code == 0, run.err
    assert "1 map is mostly noise (relative error above 1); more --num-samples settle them" in run.err
    settled = cli("gallery", photo.name, "--methods", "smooth", "--num-samples", 100, "-o", "settled")
    assert settled.code == 0, settled.err
    assert "noise" not in settled.err
