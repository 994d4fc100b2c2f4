"""`saliency-exporter serve` that also writes down when it ran a signature.

    python tests/benchmarks/timed_server.py FILE NAME=DIR [--port 8500]

FILE gets a line for each run: its begin and its end, in seconds of CLOCK_MONOTONIC, which all processes of a
machine share, and the processor time that the server had taken by its end.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from saliency_exporter.__main__ import main
from saliency_exporter.runtime.servable import Servable

if __name__ == "__main__":
    run = Servable.predict
    with Path(sys.argv[1]).open("w", buffering=1) as file:

        def timed(self: Servable, *arguments: Any, **options: Any) -> Any:
            begin = time.monotonic()
            try:
                return run(self, *arguments, **options)
            finally:
                file.write(f"{begin} {time.monotonic()} {time.process_time()}\n")

        Servable.predict = timed
        sys.argv[1:2] = ["serve"]
        sys.exit(main())
