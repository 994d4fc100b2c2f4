"""A decoder that a picture can kill, as faults of real ones do. Imports little: processes begin with it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from saliency_client.bulk.decoding import Decoding


@dataclass(frozen=True)
class Fatal(Decoding):
    """Decodes as others do, and ends its process where an image begins with a word."""

    def decode(self, image, notes=None):
        if bytes(image).startswith(b"kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode(image, notes)
