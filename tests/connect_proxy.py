"""An HTTP proxy on loopback that notes who asks for what and all that it reads (RFC 9110, 9.3.6 CONNECT)."""

from __future__ import annotations

import contextlib
import socket
import threading


class ConnectProxy:
    """Connects everyone who asks to one server, whatever they ask for.

    `asked` has the targets of the CONNECT requests, `read` all bytes that came from clients after them.
    """

    def __init__(self, server: str) -> None:
        host, _, port = server.rpartition(":")
        self._server = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"http://someone:hidden-password@{self.address}"
        self.asked: list[str] = []
        self.read = bytearray()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> ConnectProxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head and (content := client.recv(4096)):
                head += content
            self.asked.append(head.split(b" ")[1].decode())
            server = socket.create_connection(self._server, 5)
            self._open += [client, server]
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=self._pass, args=(server, client, bytearray()), daemon=True).start()
            self._pass(client, server, self.read)

    def _pass(self, source: socket.socket, sink: socket.socket, read: bytearray) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                read += content
                sink.sendall(content)
            sink.shutdown(socket.SHUT_WR)
