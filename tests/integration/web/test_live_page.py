"""The live page's addresses: photos, maps, files, errors; people who come, leave, come at one time."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import shlex
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from live_page import OWN, PageAt, serving_page
from PIL import Image
from scripted_server import MODEL, LinearModel, ScriptedServer, nobody, serving

from saliency_client.cli import main


def model(**options) -> LinearModel:
    return LinearModel(height=20, width=20, sampled=True, shares=True, **options)


def png(size: tuple[int, int] = (60, 40), color: tuple[int, int, int] = (10, 20, 250)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def _server() -> Iterator[ScriptedServer]:
    with serving(model()) as running:
        yield running


@pytest.fixture(scope="module")
def _page(_server: ScriptedServer) -> Iterator[PageAt]:
    with serving_page(_server.target, MODEL) as running:
        yield running


@pytest.fixture
def server(_server: ScriptedServer) -> ScriptedServer:
    """The server as new."""
    _server.reset(model())
    return _server


@pytest.fixture
def page(_page: PageAt, server: ScriptedServer) -> PageAt:
    return _page


def gray(event: dict, which: str) -> np.ndarray:
    """The levels of a map that an event has."""
    head, _, encoded = event[which]["src"].partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


def test_methods_and_their_fields_are_those_of_the_servers_metadata(page):
    offered = page.get("/api/model").json
    assert offered["model"] == MODEL
    (choice,) = offered["choices"]
    assert (choice["text"], choice["size"], choice["classes"]) == ("latest (version 1)", [20, 20], 4)
    fields = {one["name"]: {field["name"]: field for field in one["fields"]} for one in choice["methods"]}
    assert list(fields) == ["gradients", "shares", "smooth"]
    # A method that no client has heard of has its form all the same.
    assert (fields["shares"]["num_steps"]["default"], fields["shares"]["num_steps"]["kind"]) == (32, "whole")
    assert (fields["shares"]["baseline"]["default"], fields["shares"]["baseline"]["kind"]) == (0.0, "real")
    assert fields["smooth"]["noise_level"]["default"] == 0.15  # and not 0.15000000596
    assert set(fields["smooth"]) == {"num_samples", "noise_level", "seed", "target_error"}


def test_a_photo_comes_back_as_a_picture_with_the_part_that_the_model_sees(page):
    told = page.upload(png((60, 40)), "my cat.png").json
    assert (told["name"], told["size"]) == ("my cat.png", [60, 40])
    assert told["view"] == {"size": [60, 40], "box": [10.0, 0.0, 50.0, 40.0]}
    view = page.get(f"/api/photos/{told['id']}")
    assert view.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(view.body)).getpixel((5, 5)) == (10, 20, 250)


def test_a_map_is_the_servers_as_a_gray_picture_with_its_scale(page, server):
    *_, event, end = page.explain(page.photo(png()), "gradients")
    assert end == {"event": "end"}
    image = np.broadcast_to(np.uint8([10, 20, 250]), (1, 20, 20, 3))
    known = int(server.model.scores(image).argmax())
    assert (event["facts"]["class_index"], event["facts"]["label"]) == (known, f"class {known}")
    gradients = server.model.weights[known]
    saliency = np.abs(gradients).max(axis=-1)
    low, high = saliency.min(), np.percentile(saliency, 99)
    assert event["absolute"]["low"] == pytest.approx(low)
    assert event["absolute"]["high"] == pytest.approx(high)
    expected = np.clip((saliency - low) / (high - low), 0, 1)
    np.testing.assert_allclose(gray(event, "absolute") / 255, expected, atol=0.5 / 255 + 1e-6)
    signed = gradients.sum(axis=-1)
    high = np.percentile(np.abs(signed), 99)
    expected = np.clip(signed / high, -1, 1)
    np.testing.assert_allclose((gray(event, "signed") - 128.0) / 127, expected, atol=0.5 / 127 + 1e-6)


def test_the_most_probable_classes_come_with_their_names(page, server):
    told = page.post("/api/classes", {"photo": page.photo(png()), "choice": ""}).json["classes"]
    image = np.broadcast_to(np.uint8([10, 20, 250]), (1, 20, 20, 3))
    probabilities = server.model.predict(image)["probabilities"][0]
    order = np.argsort(-probabilities)
    assert [one["class_index"] for one in told] == order.tolist()
    assert [one["label"] for one in told] == [f"class {index}" for index in order]
    assert [one["probability"] for one in told] == pytest.approx(probabilities[order].tolist(), rel=1e-4)


@pytest.mark.parametrize("wanted", ["class 3", "CLASS 3", "3", 3])
def test_a_class_is_chosen_by_name_or_number(page, wanted):
    asked = {"photo": page.photo(png()), "choice": "", "method": "gradients", "class": wanted}
    event = page.post("/api/explain", asked).lines[0]
    assert event["facts"]["class_index"] == 3


def test_a_mean_refines_as_samples_come_in_with_an_error_that_falls(page, server):
    *events, end = page.explain(page.photo(png()), "smooth", num_samples=80)
    assert end == {"event": "end"}
    used = [event["numbers"]["samples_used"] for event in events]
    assert used == [10, 20, 40, 80]
    errors = [float(event["error"]) for event in events]
    assert errors == sorted(errors, reverse=True)
    # Of 80 samples in pairs 1 ± 2.7 the mean is the gradient; its standard error is 2.7 / √79 of that.
    ratio = 0.15 * 18 / np.sqrt(79)
    assert errors[-1] == pytest.approx(ratio / np.sqrt(1 - ratio**2), abs=0.005)


def test_a_mean_stops_at_the_error_that_is_asked_for(page):
    events = page.explain(page.photo(png()), "smooth", num_samples=1000, target_error=0.3)[:-1]
    assert float(events[-1]["error"]) <= 0.3 < float(events[-2]["error"])
    used = events[-1]["numbers"]["samples_used"]
    assert used < 1000
    lines = page.get(f"/api/maps/{events[-1]['id']}/again").json
    assert f"--num-samples {used} " in lines["command"]
    assert f"num_samples={used}\n" in lines["python"]
    assert "target" not in lines["command"] + lines["python"]


def test_an_error_names_the_field_as_the_page_does_and_no_option(page, server):
    server.fail(grpc.StatusCode.INVALID_ARGUMENT, "num_samples is 5000; it must be in [1, 1000]")
    (event,) = page.explain(page.photo(png()), "smooth", num_samples=5000)
    assert event["event"] == "error"
    assert "Num samples is 5000; it must be in [1, 1000]" in event["error"]
    assert event["code"] == "INVALID_ARGUMENT"
    assert event["hint"] == "the server's words name the value and its bound"
    assert event["field"] == {"name": "num_samples", "least": 1, "most": 1000}


def test_fields_have_the_bounds_that_the_model_tells():
    with serving(model(bounded=True)) as server, serving_page(server.target, MODEL) as page:
        methods = page.get("/api/model").json["choices"][0]["methods"]
    fields = {field["name"]: field for one in methods for field in one["fields"]}
    told = {name: (one["least"], one["most"], one["range"]) for name, one in fields.items()}
    assert told["num_samples"] == (1, 1000, "from 1 to 1,000")
    assert told["noise_level"] == (0, 0.9, "from 0 to 0.9")
    assert told["target_error"] == (0, None, "at least 0")
    assert told["seed"] == (None, None, None)
    assert told["num_steps"] == (1, None, None), "of a method whose bounds are not told"


@pytest.mark.parametrize(
    ("given", "words", "field"),
    [
        (
            {"parameters": {"num_samples": 1001}},
            "Num samples is 1001; it must be in [1, 1000]",
            {"name": "num_samples", "least": 1, "most": 1000},
        ),
        (
            {"parameters": {"noise_level": -1}},
            "Noise level is -1; it must be in [0, 0.9]",
            {"name": "noise_level", "least": 0, "most": 0.9},
        ),
        (
            {"class": 4},
            "Class index is 4; it must be in [0, 3], or -1 for the predicted class",
            {"name": "class_index", "least": 0, "most": 3},
        ),
    ],
)
def test_a_value_outside_its_bounds_is_refused_before_the_model_gets_an_image(
    page, server, given, words, field
):
    server.model.bounded = True
    asked = {"photo": page.photo(png()), "choice": "", "method": "smooth", **given}
    (event,) = page.post("/api/explain", asked).lines
    assert (event["error"], event["field"]) == (words, field)
    assert "--" not in (event["hint"] or "")
    assert "signatures" not in (event["hint"] or "")
    assert server.requests == []


def test_a_note_on_a_map_that_is_noise_names_the_field_to_change(page):
    event = page.explain(page.photo(png()), "smooth", num_samples=2)[-2]
    (note,) = event["notes"]
    assert "--" not in note
    fields = next(
        one for one in page.get("/api/model").json["choices"][0]["methods"] if one["name"] == "smooth"
    )
    assert "Num samples" in [one["label"] for one in fields["fields"]]
    assert re.search(r"(bring it to 0\.5: |try )Num samples \d+", note)


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT],
)
def test_the_next_step_after_a_servers_error_is_one_of_the_page(page, server, code):
    server.fail(code, "no")
    (event,) = page.explain(page.photo(png()), "gradients")
    assert event["code"] == code.name
    assert event["hint"]
    assert "--" not in event["hint"]
    assert "saliency-client" not in event["hint"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"method": "magic"}, "magic"),
        ({"method": "smooth", "parameters": {"seeed": 1}}, "seeed"),
        ({"method": "smooth", "parameters": {"num_samples": 2.5}}, "whole numbers"),
        ({"method": "smooth", "parameters": {"num_samples": "many"}}, "finite number"),
        ({"method": "gradients", "class": "no such class"}, "no such class"),
        ({"method": "gradients", "choice": "version:9"}, "version"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_sentence(page, asked, words):
    (event,) = page.post("/api/explain", {"photo": page.photo(png()), "choice": "", **asked}).lines
    assert event["event"] == "error"
    assert words in event["error"]
    assert "Traceback" not in event["error"]
    assert "--" not in f"{event['error']} {event['hint']}"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 100_000, b'{"parameters": 3, "photo": "x"}'])
def test_a_request_that_is_no_request_is_refused(page, body):
    headers = {**OWN, "Content-Type": "application/json"}
    assert page.ask("POST", "/api/explain", body, headers).status in (400, 404, 413)


def test_leaving_cancels_the_call_that_is_under_way(page, server):
    photo = page.photo(png())
    server.hang()
    connection = page.connect()
    asked = {"photo": photo, "choice": "", "method": "gradients", "parameters": {}}
    headers = {**OWN, "Content-Type": "application/json"}
    connection.request("POST", "/api/explain", json.dumps(asked), headers)
    _wait_for(lambda: server.running == 1)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    _wait_for(lambda: server.abandoned == 1)
    assert page.explain(photo, "gradients")[-1] == {"event": "end"}


def test_leaving_while_a_map_refines_asks_for_no_more_samples(page, server):
    photo = page.photo(png())
    second = threading.Event()

    def slow(request, context):
        second.set()
        server.wait_for_the_client_to_leave(request, context)

    server.script.extend([lambda request, context: None, slow])
    connection = page.connect()
    asked = {"photo": photo, "choice": "", "method": "smooth", "parameters": {"num_samples": 1000}}
    connection.request("POST", "/api/explain", json.dumps(asked), {**OWN, "Content-Type": "application/json"})
    answer = connection.getresponse()
    assert json.loads(answer.readline())["numbers"]["samples_used"] == 10
    assert second.wait(10)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    answer.close()
    _wait_for(lambda: server.abandoned == 1)
    asked_before = len(server.requests)
    time.sleep(0.2)
    assert len(server.requests) == asked_before


def test_beyond_the_queue_a_request_is_told_to_come_back(server):
    with serving_page(server.target, MODEL, running=1, waiting=1) as page:
        photo = page.photo(png())
        released = threading.Event()
        server.script.append(lambda request, context: released.wait(20) and None)
        asked = {"photo": photo, "choice": "", "method": "gradients", "parameters": {}}
        with contextlib.ExitStack() as stack:
            others = [stack.enter_context(contextlib.closing(page.connect())) for _ in range(2)]
            for one in others:
                one.request(
                    "POST", "/api/explain", json.dumps(asked), {**OWN, "Content-Type": "application/json"}
                )
                _wait_for(lambda: server.running == 1)
            time.sleep(0.1)
            busy = page.post("/api/explain", asked)
            assert (busy.status, busy.headers["retry-after"]) == (503, "2")
            assert "busy" in busy.json["error"]
            released.set()
            assert [one.getresponse().read().count(b'"event": "end"') for one in others] == [1, 1]
        assert page.post("/api/explain", asked).status == 200


def test_a_server_that_is_down_is_told_and_asked_again_when_it_is_back():
    with contextlib.ExitStack() as stack:
        port_is_held = stack.enter_context(contextlib.ExitStack())
        target = port_is_held.enter_context(nobody())
        page = stack.enter_context(serving_page(target, MODEL, timeout=2.0))
        down = page.get("/api/state")
        assert (down.status, down.json["down"]) == (502, True)
        assert "no server answers" in down.json["error"]
        assert "gRPC port" in down.json["hint"]
        assert page.get("/api/model").status == 502
        port_is_held.close()
        stack.enter_context(serving(model(), address=target))
        _wait_for(lambda: page.get("/api/state").status == 200)
        assert page.explain(page.photo(png()), "gradients")[-1] == {"event": "end"}


def test_people_at_the_same_time_get_their_own_maps(page, server):
    """Each asks for another class, whose map the server's weights tell."""
    photo = page.photo(png())
    found: dict[int, list[dict]] = {}

    def ask(index: int) -> None:
        asked = {"photo": photo, "choice": "", "method": "gradients", "class": index}
        found[index] = page.post("/api/explain", asked).lines

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, events in found.items():
        assert events[0]["facts"]["class_index"] == index
        values = np.abs(server.model.weights[index]).max(axis=-1)
        assert events[0]["absolute"]["high"] == pytest.approx(np.percentile(values, 99))


@pytest.mark.parametrize(
    "query", ["", "signed=1&opacity=0.5", "style=heatmap&colormap=viridis", "photo_colors=1"]
)
def test_the_files_are_those_that_the_command_and_the_lines_make(page, server, tmp_path, monkeypatch, query):
    """Both are run, in this process: map and picture are the page's."""
    server.model.names = ("$(touch owned)", "b", "c", "d")
    content, name = png((60, 40)), "a cat's $(touch owned).png"
    (tmp_path / name).write_bytes(content)
    events = page.explain(page.photo(content, name), "smooth", num_samples=40, seed=1)
    address = f"/api/maps/{events[-2]['id']}"
    array = np.load(io.BytesIO(page.get(f"{address}/file.npy?{query}").body))
    picture = page.get(f"{address}/file.png?{query}")
    assert picture.headers["content-disposition"].startswith('attachment; filename="')
    lines = page.get(f"{address}/again?{query}").json
    assert lines["fillIn"] == {}
    monkeypatch.chdir(tmp_path)

    command = shlex.split(lines["command"].replace("\\\n", " "))[1:]
    stem = Path(command[command.index("-o") + 1]).stem
    done = CliRunner().invoke(main, [*command[:-1], "made/", "--format", "npy", "--format", "png"])
    assert done.exit_code == 0, done.output
    (made,), (drawn,) = (list((tmp_path / "made").glob(f"*.{kind}")) for kind in ("npy", "png"))
    np.testing.assert_allclose(np.load(made), array, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(pixels(drawn.read_bytes()), pixels(picture.body), atol=1)

    exec(compile(lines["python"], "lines", "exec"), {})
    np.testing.assert_allclose(np.load(f"{stem}.npy"), array, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(pixels(Path(f"{stem}.png").read_bytes()), pixels(picture.body), atol=1)
    assert not (tmp_path / "owned").exists()


def pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)), np.int16)


def test_a_version_of_a_label_is_a_choice(page, server):
    """This server knows no labels: they are left out, and nothing is told of them."""
    assert [one["key"] for one in page.get("/api/model").json["choices"]] == [""]


def _wait_for(holds, seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
