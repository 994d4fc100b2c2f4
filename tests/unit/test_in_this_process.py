"""A unit test that starts a process, binds a socket, serves or exports fails and says where it belongs."""

from __future__ import annotations

import os
import socket
import subprocess

import grpc
import numpy as np
import pytest
from callables import source_of

from saliency_exporter.contract.settings import Settings
from saliency_exporter.methods.registry import find_methods
from saliency_exporter.sources.preprocessing import builtin
from saliency_exporter.version.write import Export, export


def one_export(folder):
    settings = Settings(methods=find_methods(("gradients",)), batch_sizes=(1,), compile="none")
    export(Export(source_of(lambda x: x * np.float32(2), (3,)), builtin("none"), settings, "model"), folder)


@pytest.mark.parametrize(
    "act",
    [
        lambda folder: subprocess.run(["true"], check=True),
        lambda folder: os.fork(),
        lambda folder: socket.create_server(("127.0.0.1", 0)),
        lambda folder: grpc.server(None),
        lambda folder: grpc.aio.server(),
        one_export,
    ],
    ids=["process", "fork", "socket", "gRPC server", "asynchronous gRPC server", "export"],
)
def test_what_belongs_to_integration_fails(tmp_path, act):
    with pytest.raises(pytest.fail.Exception, match="belongs to tests/integration"):
        act(tmp_path)
