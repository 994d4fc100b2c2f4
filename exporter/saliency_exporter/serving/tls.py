"""TLS and mutual TLS for the local server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from saliency_exporter.errors import ExportError


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the server's certificate chain and key, and the authority of the clients to let in.

    Without client_ca every client is let in; with it, only those with a certificate of that authority.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Reads the files.

    Raises:
        ExportError: one cannot be read or is not PEM.
    """
    return grpc.ssl_server_credentials(
        [(_read_pem(files.key), _read_pem(files.certificate))],
        root_certificates=_read_pem(files.client_ca) if files.client_ca is not None else None,
        require_client_auth=files.client_ca is not None,
    )


def _read_pem(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from error
    if b"-----BEGIN " not in content:
        raise ExportError(
            f"{path} is not a PEM file", hint="a PEM file holds a line that starts with -----BEGIN"
        )
    return content
