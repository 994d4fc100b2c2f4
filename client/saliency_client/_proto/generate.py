"""Regenerate the protocol modules beside this file; needs grpcio-tools 1.64.3 (the `lint` extra).

    python client/saliency_client/_proto/generate.py

That version's output imports on protobuf 5, 6 and 7; newer compilers drop the older runtimes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCE_ROOT = Path(__file__).resolve().parents[2]
PROTO = "saliency_client/_proto/saliency_client_tfs.proto"


def generate(out: Path) -> None:
    """Write the `_pb2.py` and `_pb2.pyi` files of the protocol under the folder `out`."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "--proto_path=.",
            f"--python_out={out}",
            f"--pyi_out={out}",
            PROTO,
        ],
        cwd=SOURCE_ROOT,
        check=True,
    )


if __name__ == "__main__":
    generate(SOURCE_ROOT)
