"""Imports TensorFlow without the lines it writes to stderr, which are noise to whoever types a command."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

VERBOSE_VARIABLE = "SALIENCY_DEBUG"


def import_tensorflow() -> None:
    """Imports TensorFlow quietly; does nothing when SALIENCY_DEBUG is set, so that all of it can be seen.

    Call it before anything else imports TensorFlow: part of the noise is decided at import.
    """
    if os.environ.get(VERBOSE_VARIABLE, "0") not in ("", "0"):
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with _stderr_held_back():
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        _provoke_first_time_messages()


def _provoke_first_time_messages() -> None:
    """Runs a V1 Session and an XLA program: each logs a line once in a process, whatever the log level."""
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        session.run(tf.constant(0))
    try:
        tf.function(lambda x: x, jit_compile=True)(tf.constant(0))
    except tf.errors.OpError:
        # Said in full by the first real program.
        return


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
