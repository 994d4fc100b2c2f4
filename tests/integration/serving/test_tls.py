"""TLS and mutual TLS with certificates made for the test."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import grpc
import numpy as np
import pytest
from serving_models import predict_request

from saliency_client import TLS, SaliencyClient, TLSError
from saliency_exporter.errors import ExportError
from saliency_exporter.serving.tls import TlsFiles, server_credentials

REQUEST = predict_request("small", images=np.ones([1, 2], np.float32))

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


class Authority:
    """A certificate authority and what it signs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.certificate = directory / "ca.pem"
        self.key = directory / "ca.key"
        ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        openssl(
            "req",
            "-x509",
            *ec,
            "-days",
            "2",
            "-subj",
            "/CN=test",
            "-keyout",
            self.key,
            "-out",
            self.certificate,
        )

    def sign(self, name: str, subject_alternative: str, days: str = "2") -> tuple[Path, Path]:
        key, request, certificate = (self.directory / f"{name}.{end}" for end in ("key", "csr", "pem"))
        ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        openssl("req", *ec, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        extensions = self.directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={subject_alternative}\n")
        signing = ("-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-days", days)
        openssl("x509", "-req", "-in", request, *signing, "-extfile", extensions, "-out", certificate)
        return certificate, key


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "theirs")


def client(authority: Authority, pair: tuple[Path, Path] | None = None) -> grpc.ChannelCredentials:
    certificate, key = (path.read_bytes() for path in pair) if pair else (None, None)
    return grpc.ssl_channel_credentials(authority.certificate.read_bytes(), key, certificate)


def refused(stubs) -> bool:
    with pytest.raises(grpc.RpcError) as raised:
        stubs.predict(REQUEST, timeout=10)
    return raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_over_tls_a_client_that_trusts_the_authority_is_answered_and_others_are_not(
    model_dir, start_local, stubs_to, authority, stranger
):
    server = start_local({"small": model_dir}, tls=TlsFiles(*authority.sign("server", "IP:127.0.0.1")))
    assert stubs_to(server.target, client(authority)).predict(REQUEST, timeout=20).outputs
    assert refused(stubs_to(server.target, client(stranger)))
    assert refused(stubs_to(server.target))


def test_over_mutual_tls_only_clients_of_the_authority_are_let_in(
    model_dir, start_local, stubs_to, authority, stranger
):
    tls = TlsFiles(*authority.sign("server", "IP:127.0.0.1"), authority.certificate)
    server = start_local({"small": model_dir}, tls=tls)
    known = authority.sign("client", "DNS:client")
    assert stubs_to(server.target, client(authority, known)).predict(REQUEST, timeout=20).outputs
    assert refused(stubs_to(server.target, client(authority)))
    assert refused(stubs_to(server.target, client(authority, stranger.sign("client", "DNS:client"))))


def test_an_expired_certificate_is_refused_on_either_side(model_dir, start_local, stubs_to, authority):
    expired = authority.sign("expired", "IP:127.0.0.1", days="-1")
    valid = authority.sign("valid", "IP:127.0.0.1")
    server = start_local({"small": model_dir}, tls=TlsFiles(*expired))
    assert refused(stubs_to(server.target, client(authority)))
    mutual = start_local({"small": model_dir}, tls=TlsFiles(*valid, authority.certificate))
    assert refused(stubs_to(mutual.target, client(authority, expired)))
    assert stubs_to(mutual.target, client(authority, valid)).predict(REQUEST, timeout=20).outputs


def test_the_client_tells_an_expired_certificate_at_once_as_a_matter_of_tls(
    model_dir, start_local, authority
):
    server = start_local(
        {"small": model_dir}, tls=TlsFiles(*authority.sign("old", "IP:127.0.0.1", days="-1"))
    )
    with SaliencyClient(server.target, model="small", tls=TLS(ca=authority.certificate)) as ours:
        with pytest.raises(TLSError) as raised:
            ours.methods()
        assert raised.value.attempts == 1


def test_a_certificate_for_another_host_is_refused(model_dir, start_local, stubs_to, authority):
    server = start_local({"small": model_dir}, tls=TlsFiles(*authority.sign("other", "DNS:other.example")))
    assert refused(stubs_to(server.target, client(authority)))


def test_a_file_that_is_missing_or_is_no_certificate_is_named(tmp_path):
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ExportError, match=str(tmp_path / "none")):
        server_credentials(TlsFiles(tmp_path / "none", tmp_path / "none"))
    with pytest.raises(ExportError, match="not a PEM file"):
        server_credentials(TlsFiles(tmp_path / "text", tmp_path / "text"))
