"""A TCP proxy that is slow, stalls, resets or goes away, between a client and a server on loopback."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import Literal

Mood = Literal["pass", "slow", "stall", "reset", "refuse"]
_CHUNK = 4096


class TcpProxy:
    """Passes bytes both ways as its `mood` says at the moment; `connections` counts those it took.

    "slow" waits 20 ms before every 4 KiB, "stall" takes bytes and passes none on, "reset" cuts connections
    with RST after some bytes, "refuse" cuts them at once.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._address = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.mood: Mood = "pass"
        self.connections = 0
        self._open: set[socket.socket] = set()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed = True
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Reset every connection."""
        for one in list(self._open):
            _reset(one)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.mood == "refuse":
                _reset(client)
                continue
            try:
                server = socket.create_connection(self._address, 5)
            except OSError:
                _reset(client)
                continue
            self._open |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while content := source.recv(_CHUNK):
                if self.mood == "slow":
                    time.sleep(0.02)
                while self.mood == "stall" and not self._closed and source in self._open:
                    time.sleep(0.02)
                if self.mood in ("reset", "refuse"):
                    raise ConnectionResetError
                sink.sendall(content)
        except OSError:
            pass
        finally:
            for one in (source, sink):
                self._open.discard(one)
                _reset(one)


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
