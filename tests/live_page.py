"""The live page in this process, on a free port, and a browser's part of the talk with it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from saliency_client.aio import AsyncSaliencyClient
from saliency_client.cli.connection import Connection, client_options
from saliency_client.web.live.admission import Address
from saliency_client.web.live.app import Settings
from saliency_client.web.live.serving import listening, web_server

OWN = {"X-Saliency-Page": "1"}


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]


@dataclass(frozen=True)
class PageAt:
    """A page that runs."""

    port: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask(
            "GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    def post(self, path: str, value: Any) -> Answer:
        headers = {**OWN, "Content-Type": "application/json", "Origin": f"http://{self.host}"}
        return self.ask("POST", path, json.dumps(value), headers)

    def upload(self, content: bytes, name: str = "cat.png", query: str = "") -> Answer:
        headers = {**OWN, "X-File-Name": quote(name)}
        return self.ask("POST", f"/api/photos{query}", content, headers)

    def photo(self, content: bytes, name: str = "cat.png") -> str:
        """The id of a photo that is taken."""
        answer = self.upload(content, name)
        assert answer.status == 200, answer.body
        return answer.json["id"]

    def explain(self, photo: str, method: str, **parameters: float) -> list[dict[str, Any]]:
        """All that is told of a map."""
        asked = {"photo": photo, "choice": "", "method": method, "parameters": parameters}
        return self.post("/api/explain", asked).lines


def connection_to(target: str, model: str, **others: Any) -> Connection:
    """The options of a command that are given: all others are as they are without them."""
    fields: dict[str, Any] = dict.fromkeys(Connection.field_names())
    return Connection(
        **{
            **fields,
            "timeout": 30.0,
            "metadata": (),
            "tls": False,
            "server": target,
            "model": model,
            **others,
        }
    )


@contextmanager
def serving_page(
    target: str,
    model: str,
    *,
    running: int = 4,
    waiting: int = 16,
    host: str = "127.0.0.1",
    max_pixels: int = 10_000_000,
    **connection_options: Any,
) -> Iterator[PageAt]:
    """A page for a model, until the block ends."""
    connection = connection_to(target, model, **connection_options)
    settings = Settings(connection, model, None, "crop", max_pixels, running, waiting)
    with client_options(connection) as options, listening(host, 0) as opened:

        def connect(version: int | None, label: str | None) -> AsyncSaliencyClient:
            return AsyncSaliencyClient(version=version, label=label, **options)

        address = Address(host, opened.getsockname()[1])
        server = web_server(settings, address, connect)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield PageAt(address.port)
        finally:
            server.should_exit = True
            thread.join(30)
