"""Imports TensorFlow for a command: quietly, sooner, and with a pool of memory."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERBOSE_VARIABLE = "SALIENCY_DEBUG"

_ABSL_RELEASES = ("20250127", "20240722", "20250512", "20250814", "20240116", "20230802")
_FATAL = 3


def import_tensorflow() -> None:
    """Imports TensorFlow quietly; does nothing when SALIENCY_DEBUG is set, so that all of it can be seen.

    For commands: it changes how often this process collects garbage, and where its tensors' memory is from.

    What fails is still raised as an exception, and a fatal line still shows. Call it before anything else
    imports TensorFlow: part of the noise is decided at import.
    """
    pool_cpu_memory()
    if os.environ.get(VERBOSE_VARIABLE, "0") not in ("", "0"):
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with _stderr_held_back(), _imports_kept():
        import tensorflow as tf
    tf.get_logger().setLevel("ERROR")
    _log_only_fatal_lines(Path(tf.sysconfig.get_lib()))


def pool_cpu_memory() -> None:
    """Lets TensorFlow keep the memory of a call on a CPU for the next one. Call it before the first tensor.

    By itself TensorFlow does so where oneDNN's kernels are on. Elsewhere a call's large tensors come from the
    operating system each time, which fills every page with zeros: a third of the time of the gradients of one
    small image.

    The pool grows up to the memory of the machine; TensorFlow's own bound is 64 GiB. Variables that are set
    already stay as they are.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    os.environ.setdefault("TF_CPU_BFC_MEM_LIMIT_IN_MB", str(machine))


def _log_only_fatal_lines(library_dir: Path) -> None:
    """Calls absl::SetMinLogLevel: no variable reaches the lines logged through absl.

    Without it every hit of XLA's persistent cache logs an error that is none.
    """
    for path in library_dir.glob("libtensorflow_framework.*"):
        library = ctypes.CDLL(str(path))
        for release in _ABSL_RELEASES:
            # The mangled name of absl::lts_<release>::SetMinLogLevel(absl::LogSeverityAtLeast).
            set_min_log_level = getattr(
                library, f"_ZN4absl12lts_{release}14SetMinLogLevelENS0_18LogSeverityAtLeastE", None
            )
            if set_min_log_level is not None:
                set_min_log_level(_FATAL)
                return


@contextmanager
def _imports_kept() -> Iterator[None]:
    """What is imported in the block is never garbage, and nothing looks for garbage in it.

    A collection for every 700 objects takes a quarter of the time of TensorFlow's import, and would walk its
    modules again and again later on: a tenth of the time in which a small model is traced and verified.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        if was_enabled:
            gc.enable()


@contextmanager
def _stderr_held_back() -> Iterator[None]:
    """Sends file descriptor 2 to a file, and shows what went there if the block fails."""
    try:
        visible = os.dup(2)
    except OSError:
        # The process was started without a stderr.
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(visible, 2)
            held_back.seek(0)
            os.write(2, held_back.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(visible, 2)
            os.close(visible)
