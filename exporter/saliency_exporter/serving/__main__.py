"""`python -m saliency_exporter.serving NAME=MODEL_DIR …`: the command `serve` by itself."""

from __future__ import annotations

import sys

from saliency_exporter.errors import ExportError
from saliency_exporter.serving.command import serve_command

if __name__ == "__main__":
    try:
        serve_command(prog_name="python -m saliency_exporter.serving")
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(1)
