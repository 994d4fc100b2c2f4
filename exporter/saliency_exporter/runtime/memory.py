"""Memory that is too small, in one sentence. Needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from saliency_exporter.errors import ExportError, NotWritten, brief


@contextmanager
def enough_memory(hint: str) -> Iterator[None]:
    """Says that the memory is too small where the block fails for it.

    Args:
        hint: the next step.

    Raises:
        ExportError: it does.
    """
    try:
        yield
    except NotWritten:
        # TensorFlow has one error for a full disk and for a full memory.
        raise
    except Exception as error:
        for cause in _causes(error):
            if _is_for_memory(cause):
                raise ExportError(f"the memory is too small: {brief(cause)}", hint=hint) from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from: what loads a model names whatever fails in it."""
    while error is not None:
        yield error
        error = error.__cause__


def _is_for_memory(error: BaseException) -> bool:
    # TensorFlow's error by name: it may not have been imported.
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
