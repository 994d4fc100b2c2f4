"""A local S3 server (moto) in threads of this process, whose credentials can end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

import boto3
import pytest
from moto.server import ThreadedMotoServer

VARIABLES = {
    "AWS_ACCESS_KEY_ID": "a-key",
    "AWS_SECRET_ACCESS_KEY": "a-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    # Configurations of whoever runs the tests.
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}

_EXPIRED = ("ExpiredToken", "The provided token has expired.")


class Refusing:
    """A web application that says of every request that the credentials have ended, while `refuses` is set.

    Attributes:
        refuses: from now on.
        after: so many requests from now on it begins to refuse; None: never.
        denies: it refuses with 403, as a store does from which a permission was taken, and not with 400.
        hangs_up: called when it would refuse, in place of an answer: connections that are kept end as well.
        answered: requests so far.
    """

    def __init__(self, app) -> None:
        self._app = app
        self.refuses = self.denies = False
        self.after: int | None = None
        self.hangs_up: Callable[[], None] | None = None
        self.answered = 0

    def __call__(self, environ, start_response):
        self.answered += 1
        if self.after is not None:
            self.after -= 1
            if self.after < 0:
                self.refuses, self.after = True, None
        if not self.refuses:
            return self._app(environ, start_response)
        if self.hangs_up is not None:
            self.hangs_up()
            raise ConnectionResetError
        # A connection that is kept may hold the body of this request.
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        code, message = ("AccessDenied", "Access Denied") if self.denies else _EXPIRED
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        status = "403 Forbidden" if self.denies else "400 Bad Request"
        start_response(status, [("Content-Type", "application/xml")])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]


class Store:
    """The server: its address, buckets, and what it refuses."""

    def __init__(self, server: ThreadedMotoServer, refusing: Refusing) -> None:
        self.server, self.door = server, refusing
        host, port = server.get_host_and_port()
        self.address = f"http://{host}:{port}"
        self._buckets = 0

    @cached_property
    def client(self):
        """Of boto3: it reads descriptions of the whole service when it is made."""
        return boto3.client("s3", endpoint_url=self.address)

    def new_bucket(self) -> str:
        self._buckets += 1
        name = f"bucket-{self._buckets}"
        self.client.create_bucket(Bucket=name)
        return name

    def stop_after(self, requests: int) -> None:
        """Let nobody connect any more, so many requests from now on."""
        self.door.hangs_up = self.server._server.server_close
        self.door.after = requests

    def start_again(self) -> None:
        """Be there again, at the same address and with the same files."""
        self.server.stop()
        self.server._port = int(self.address.rpartition(":")[2])
        self.server.start()
        self.door.refuses, self.door.after, self.door.hangs_up = False, None, None
        self.server._server.app = self.door

    def put(self, bucket: str, files: dict[str, bytes]) -> None:
        client = self.client
        for name, content in files.items():
            client.put_object(Bucket=bucket, Key=name, Body=content)

    def files(self, bucket: str) -> dict[str, bytes]:
        client = self.client
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        names = [one["Key"] for page in pages for one in page.get("Contents", ())]
        return {name: client.get_object(Bucket=bucket, Key=name)["Body"].read() for name in names}


@contextmanager
def s3_server() -> Iterator[Store]:
    """A running server on 127.0.0.1, and the variables that lead s3fs to it."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    refusing = Refusing(server._server.app)
    server._server.app = refusing
    store = Store(server, refusing)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**VARIABLES, "AWS_ENDPOINT_URL": store.address}.items():
            patch.setenv(name, value)
        try:
            yield store
        finally:
            server.stop()
