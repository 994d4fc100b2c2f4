"""The command line: `saliency-client`. Each command is a module, and imports what is heavy when it runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from saliency_client.cli.application import application
from saliency_client.cli.errors import debugging

if TYPE_CHECKING:
    # Never run, but seen by programs that freeze an application (PyInstaller): they find no name in a text.
    from saliency_client.cli import (  # noqa: F401
        bench,
        completion,
        evaluate,
        explain,
        gallery,
        job,
        page,
        predict,
        signatures,
        status,
    )

_COMMANDS = (
    "explain",
    "predict",
    "status",
    "signatures",
    "evaluate",
    "gallery",
    "page",
    "job",
    "bench",
    "completion",
)


@application("saliency-client", {name: f"saliency_client.cli.{name}:{name}" for name in _COMMANDS})
def main() -> None:
    """Saliency maps and predictions from a model that TensorFlow Serving serves.

    Every command takes the server and the model from --server and --model, or from SALIENCY_SERVER and
    SALIENCY_MODEL.

    \b
    saliency-client status --server localhost:8500 --model efficientnet-lite0 --wait 60
    saliency-client explain cat.jpg --server localhost:8500 --model efficientnet-lite0

    \b
    Exit codes:
      0        done
      1        failed; of a batch: some of it
      2        wrong usage
      64 + n   the server or the network failed the call: gRPC code n, as 69 NOT_FOUND, 78 UNAVAILABLE
      130      interrupted
    SALIENCY_DEBUG=1 shows tracebacks.
    """
    # gRPC writes lines of its own to standard error; what they say is in the errors, in a sentence.
    if not debugging():
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
