"""What must not leak does not, and a hostile server is an error of the call and nothing more."""

from __future__ import annotations

import json
import logging
import pickle
import random
import re
import subprocess
import sys
import traceback
from collections import Counter

import grpc
import numpy as np
import pytest
from scripted_server import MODEL, LinearModel, ScriptedServer, signature_defs
from tensorflow_serving.apis import get_model_metadata_pb2

from saliency_client import TLS, AnswerError, SaliencyClient, SaliencyError
from saliency_client._calls import Send
from saliency_client._signatures import parse_metadata

# A client in a process whose memory is the client's alone: what it met, and how far its peak rose.
CLIENT = """
import json, re, sys
import numpy as np
from saliency_client import SaliencyClient, SaliencyError

target, model, limit = sys.argv[1:]
images = np.zeros((1, 6, 5, 3), np.uint8)

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

with SaliencyClient(target, model=model, timeout=60, max_answer_bytes=int(limit) or None) as client:
    client.explain(images)
    before = peak()
    try:
        client.explain(images)
        met = "an answer"
    except SaliencyError as error:
        met = f"{type(error).__name__}: {error}"
    risen = peak() - before
    print(json.dumps([met, risen, client.explain(images).saliency.shape]))
"""
HUGE = 100_000_000

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


def broken(rng: random.Random, content: bytes) -> bytes:
    """Some bytes flipped, cut out, put in or repeated."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(changed))
        match rng.randrange(4):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at:at] = rng.choice([b"\0", b"\xff" * 9 + b"\1", rng.randbytes(3)])
            case 2:
                del changed[at : at + rng.choice([1, 2, 50])]
            case _:
                changed[at:at] = changed[at : at + rng.randrange(64)]
    return bytes(changed)


def test_a_broken_answer_is_an_answer_or_an_error_of_this_library(server: ScriptedServer):
    rng = random.Random(7)
    server.corrupt = lambda answer: broken(rng, answer)
    seen: Counter[str] = Counter()
    with SaliencyClient(server.target, model=MODEL, timeout=10) as client:
        for _ in range(400):
            try:
                client.explain(IMAGES, outputs="all")
                seen["answer"] += 1
            except AnswerError:
                seen["error"] += 1
        server.corrupt = lambda answer: answer
        assert client.explain(IMAGES).saliency is not None
    assert min(seen["answer"], seen["error"]) > 20


def test_broken_metadata_of_a_model_is_metadata_or_an_error_of_this_library():
    rng = random.Random(7)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=signature_defs(LinearModel()))
    response.metadata["signature_def"].Pack(signatures)
    good = response.SerializeToString()
    assert "explain_smooth" in parse_metadata(good).signatures
    errors = 0
    for _ in range(2000):
        try:
            parse_metadata(broken(rng, good))
        except AnswerError:
            errors += 1
    assert 20 < errors < 2000


@pytest.mark.parametrize("content", ["nothing", "another message", "no message"])
def test_metadata_with_the_wrong_any_is_no_signature_or_an_error(content):
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    if content == "another message":
        response.metadata["signature_def"].Pack(get_model_metadata_pb2.GetModelMetadataRequest())
    if content == "no message":
        response.metadata["signature_def"].value = b"\xff" * 100
        with pytest.raises(AnswerError):
            parse_metadata(response.SerializeToString())
    else:
        assert not parse_metadata(response.SerializeToString()).signatures


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


TOO_LARGE = "AnswerTooLarge: the answer of model 'linear'.* is larger than this client may receive"
LIES = r"AnswerError: output 'saliency' is float32\[25000000\]; its signature says"


@pytest.mark.parametrize(
    ("limit", "compressed", "words", "mib"),
    [
        (2**24, False, TOO_LARGE, 48),
        (2**24, True, TOO_LARGE, 48),
        # The bytes as they come, the message that gRPC makes of them, and its copies for Python.
        (0, False, LIES, 4 * HUGE / 2**20),
    ],
    ids=["bounded", "bounded, compressed", "without a bound"],
)
def test_a_huge_answer_is_an_error_and_takes_no_more_memory_than_allowed(
    server: ScriptedServer, limit, compressed, words, mib
):
    def answer(request, context):
        if compressed:
            context.set_compression(grpc.Compression.Gzip)
        server.tamper = lambda response: enlarge(response.outputs["saliency"])

    def enlarge(output):
        server.tamper = lambda response: None
        output.tensor_content = bytes(HUGE)
        del output.float_val[:]
        del output.tensor_shape.dim[:]
        output.tensor_shape.dim.add(size=HUGE // 4)

    server.script.extend([lambda request, context: None, answer])
    command = [sys.executable, "-c", CLIENT, server.target, MODEL, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    met, risen, shape = json.loads(done.stdout)
    assert re.match(words, met)
    assert risen < mib
    assert shape == [1, 6, 5]
