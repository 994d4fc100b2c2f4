"""What must not leak does not, and a hostile server is an error of the call and nothing more."""

from __future__ import annotations

import logging
import pickle
import traceback

import grpc
import numpy as np
import pytest
from scripted_server import MODEL, LinearModel, ScriptedServer

from saliency_client import TLS, SaliencyClient, SaliencyError
from saliency_client._calls import Send

SECRET = "sekret-7d1f"
IMAGES = np.zeros((1, LinearModel.height, LinearModel.width, 3), np.uint8)


def test_a_token_is_in_no_repr_error_log_or_pickle(server, connect, caplog):
    caplog.set_level(logging.DEBUG)
    server.fail(grpc.StatusCode.UNAUTHENTICATED, "no", times=2)
    client = connect(server, token=SECRET)
    with pytest.raises(SaliencyError) as raised:
        client.explain(IMAGES)
    error = raised.value
    told = [repr(error), str(error), str(vars(error)), repr(client), caplog.text]
    told += traceback.format_exception(error)
    told.append(pickle.dumps(error).decode("latin-1"))
    assert all(SECRET not in one for one in told)
    assert any(f"Bearer {SECRET}" in str(metadata) for metadata in server.metadata), "it was sent"


def test_a_refused_token_is_not_repeated(server, connect):
    with pytest.raises(SaliencyError) as raised:
        connect(server, token=lambda: f"{SECRET}\n").explain(IMAGES)
    assert SECRET not in str(raised.value)


def test_a_step_does_not_show_its_metadata():
    # Tools that report errors show the variables of every frame.
    assert SECRET not in repr(Send("t:1", "/p", b"", 1.0, (("authorization", f"Bearer {SECRET}"),)))


def test_a_private_key_is_in_no_repr():
    pem = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n".encode()
    assert SECRET not in repr(TLS(certificate=b"-----BEGIN CERTIFICATE-----", key=pem))


@pytest.mark.parametrize("where", ["trailing", "initial"])
def test_endless_metadata_of_a_server_is_an_error_of_the_call(server: ScriptedServer, where):
    def answer(request, context):
        items = tuple((f"x-{number}", "a" * 1000) for number in range(2000))
        if where == "trailing":
            context.set_trailing_metadata(items)
        else:
            context.send_initial_metadata(items)

    with SaliencyClient(server.target, model=MODEL, timeout=10) as client:
        client.methods()
        server.script.append(answer)
        with pytest.raises(SaliencyError):
            client.explain(IMAGES)
        assert client.explain(IMAGES).saliency is not None


def test_metadata_of_a_model_beyond_the_limit_is_refused(server: ScriptedServer):
    with (
        SaliencyClient(server.target, model=MODEL, timeout=20, max_answer_bytes=100) as client,
        pytest.raises(SaliencyError, match="larger than this client may receive"),
    ):
        client.signatures()
