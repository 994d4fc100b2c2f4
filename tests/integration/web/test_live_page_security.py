"""What the live page refuses, and what it never tells."""

from __future__ import annotations

import io
import socket
import struct
import zlib
from collections.abc import Iterator

import pytest
from live_page import OWN, PageAt, serving_page
from PIL import Image
from scripted_server import MODEL, LinearModel, ScriptedServer, serving

TOKEN = "sesame-open"
HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    names = (f"{HOSTILE}</script>", "\x1b[31m", "‮evil", "b")
    with serving(LinearModel(height=20, width=20, names=names)) as running:
        yield running


@pytest.fixture(scope="module")
def page(server: ScriptedServer) -> Iterator[PageAt]:
    patch = pytest.MonkeyPatch()
    patch.setenv("SALIENCY_TOKEN", TOKEN)
    with serving_page(server.target, MODEL, max_pixels=1_000_000) as running:
        yield running
    patch.undo()


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (60, 40), (10, 20, 250)).save(stream, "PNG")
    return stream.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of side² pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * ((side + 7) // 8 + 1) * 100, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


ADDRESSES = [
    "/",
    "/style.css",
    "/live.js",
    "/api/model",
    "/api/state",
    "/nowhere",
    "/api/photos/x",
    "/../../etc/passwd",
]


@pytest.mark.parametrize("path", ADDRESSES)
def test_every_answer_has_the_policy_and_its_companions(page, path):
    headers = page.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers


def test_the_document_has_no_script_and_no_style_of_its_own(page):
    text = page.get("/").body.decode()
    assert text.count("<script") == 3  # viewer.js, live.js and the data, which no browser runs
    assert text.count('<script src="') == 2
    assert '<script type="application/json"' in text
    assert "<style" not in text
    assert " style=" not in text
    assert " on" not in text.partition('<script type="application/json"')[0].partition("<body")[2]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:{port}"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/model"), ("POST", "/api/photos"), ("POST", "/api/explain")]
)
def test_other_names_and_other_sites_are_refused(page, headers, status, method, path):
    sent = {name: value.format(port=page.port) for name, value in headers.items()}
    answer = page.ask(method, path, b"{}" if method == "POST" else None, {**OWN, **sent})
    assert answer.status == status
    assert set(answer.json) == {"error", "hint"}


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded"])
def test_what_a_form_of_another_site_sends_changes_nothing(page, kind):
    for path in ("/api/photos", "/api/explain", "/api/classes"):
        assert page.ask("POST", path, png(), {"Content-Type": kind}).status == 403


def test_a_browser_that_asks_before_is_not_told_yes(page):
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Headers": "x-saliency-page"}
    answer = page.ask("OPTIONS", "/api/explain", None, headers)
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_an_upload_that_says_that_it_is_too_large_is_refused_before_it_is_read(page):
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as connection:
        head = ["POST /api/photos HTTP/1.1", f"Host: {page.host}", "X-Saliency-Page: 1"]
        connection.sendall("\r\n".join([*head, "Content-Length: 99999999999", "", ""]).encode())
        with connection.makefile("rb") as stream:
            answer = stream.read().decode()
    assert answer.startswith("HTTP/1.1 413")
    assert "the page takes up to 64 MB" in answer


def test_an_upload_of_unknown_length_is_cut_off_where_it_becomes_too_large(page, monkeypatch):
    monkeypatch.setattr("saliency_client.web.live.app.MOST_BYTES", 100_000)

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    connection = page.connect()
    try:
        connection.request("POST", "/api/photos", endless(), OWN, encode_chunked=True)
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # it was cut off while it was still sending
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("side", "words"),
    [(1_001, "the bound is 1000000"), (50_000, "2500000000 pixels")],
    ids=["page", "Pillow"],
)
def test_a_picture_that_unfolds_is_refused_by_its_pixels(page, side, words):
    answer = page.upload(bomb(side), "bomb.png")
    assert answer.status == 400
    assert "bomb.png is too large" in answer.json["error"]
    assert words in answer.json["error"]


@pytest.mark.parametrize(
    "content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"\x93NUMPY\x01\x00", b"%PDF-1.7"]
)
def test_what_is_no_picture_is_told_in_a_sentence(page, content):
    answer = page.upload(content, "x.png")
    assert answer.status == 400
    assert "x.png" in answer.json["error"]
    assert "Traceback" not in answer.body.decode()


def test_the_token_the_machines_paths_and_the_version_of_the_server_are_in_no_answer(page, server):
    photo = page.photo(png())
    events = page.explain(photo, "gradients")
    told = [page.get(path).body for path in ADDRESSES] + [str(events).encode()]
    told.append(page.get(f"/api/maps/{events[0]['id']}/again").body)
    told.append(page.explain(photo, "nothing").__repr__().encode())
    for body in told:
        assert TOKEN.encode() not in body
        assert b"/home/" not in body
        assert b"site-packages" not in body
        assert b"uvicorn" not in body


def test_hostile_names_come_as_json_text_and_in_no_header(page, server):
    told = page.upload(png(), f"{HOSTILE}\r\nX-Evil: 1.png")
    assert told.status == 200
    assert "x-evil" not in told.headers
    events = page.explain(told.json["id"], "gradients")
    file = page.get(f"/api/maps/{events[0]['id']}/file.png")
    assert file.status == 200
    assert file.headers["content-disposition"].isascii()
    assert "x-evil" not in file.headers
    assert page.get("/").body.count(b"<img") == 0


@pytest.mark.parametrize("path", ["/api/photos/guess", "/api/maps/guess/again", "/api/maps/guess/file.png"])
def test_what_is_not_kept_is_gone(page, path):
    answer = page.get(path)
    assert (answer.status, answer.json["gone"]) == (404, True)
    assert answer.json["hint"] == "choose the photo again"


@pytest.mark.parametrize(
    "query", ["opacity=2", "opacity=nan", "opacity=x", "style=panel", "colormap=nothing"]
)
def test_a_look_that_is_none_is_told(page, query):
    events = page.explain(page.photo(png()), "gradients")
    answer = page.get(f"/api/maps/{events[0]['id']}/file.png?{query}")
    assert answer.status == 400
    assert answer.json["error"]
