"""The client on every major version of protobuf, with the oldest and newest grpcio and numpy.

    python tests/matrix/client_matrix.py [PYTHON]

Makes a throw-away virtual environment for each, in which the client talks to a server on the official stubs
that runs in this one, in both encodings of answers. Prints a Markdown table; ends with 1 if a combination
fails. Takes minutes.
"""

from __future__ import annotations

import itertools
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTOBUF = ["protobuf==5.28.*", "protobuf==5.*", "protobuf==6.*", "protobuf==7.*"]
# The oldest numpy with wheels: 1.26, and 2.1 for newer Pythons.
GRPCIO_AND_NUMPY = [
    ("grpcio==1.66.*", "numpy==1.26.*; python_version < '3.13'", "numpy==2.1.*; python_version >= '3.13'"),
    ("grpcio<2", "numpy<3"),
]
OTHERS = ["click", "pillow", "cmap", "rich"]

sys.path.insert(0, str(ROOT / "tests"))

from scripted_server import ScriptedServer, serving  # noqa: E402


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)


def result(interpreter: str, packages: list[str], server: ScriptedServer) -> tuple[bool, str]:
    """Whether the client works with these, and the exact versions or the last line of what went wrong."""
    with tempfile.TemporaryDirectory() as directory:
        python = Path(directory) / "bin/python"
        steps = [
            run(interpreter, "-m", "venv", directory),
            run(python, "-m", "pip", "install", "-q", "--only-binary", ":all:", *packages, *OTHERS),
            run(python, "-m", "pip", "install", "-q", "--no-deps", ROOT),
        ]
        for server.typed_answers in (True, False):
            steps.append(run(python, ROOT / "tests/matrix/check_client.py", server.target))
    for step in steps:
        if step.returncode != 0:
            return False, (step.stderr.strip().splitlines() or ["?"])[-1]
    return True, steps[-1].stdout.strip()


def main() -> int:
    interpreter = sys.argv[1] if len(sys.argv) > 1 else sys.executable
    print(f"{run(interpreter, '--version').stdout.strip()}, {platform.system()} {platform.machine()}\n")
    print("| protobuf | grpcio | numpy | works |\n|---|---|---|---|")
    failures = 0
    with serving() as server:
        for protobuf, others in itertools.product(PROTOBUF, GRPCIO_AND_NUMPY):
            works, said = result(interpreter, [protobuf, *others], server)
            versions = said.split() if works else [protobuf, others[0], " ".join(others[1:])]
            print("|", " | ".join([*versions, "yes" if works else f"no: {said}"]), "|", flush=True)
            failures += not works
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
