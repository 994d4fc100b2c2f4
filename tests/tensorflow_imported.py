"""What the process that commands of tests are forks of imports (preloaded.py), before any of them begins."""

from __future__ import annotations

import gc
import sys
from importlib import import_module

from saliency_exporter.runtime.quiet import import_tensorflow

PATH = tuple(sys.path)
"""Where this interpreter looked for modules at its start."""

import_tensorflow()
for name in (
    "keras",
    "saliency_client.cli",
    "saliency_exporter.cli",
    "saliency_exporter.version.write",
    "saliency_exporter.serving.server",
    "saliency_exporter.sources.load",
    "saliency_exporter.version.verify",
):
    import_module(name)

# Threads of TensorFlow's would not be in a fork.
context = import_module("tensorflow.python.eager.context").context()
assert context._context_handle is None, "TensorFlow has been started, not only imported"

# What is here stays: no fork's collector looks at it, so that its pages remain shared.
gc.freeze()
