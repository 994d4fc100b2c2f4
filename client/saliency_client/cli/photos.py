"""Limits of this process on the size of photos."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def allow_pixels(bound: int | None) -> Iterator[None]:
    """Let Pillow decode photos of up to `bound` pixels, and keep its warnings and log off the terminal.

    The bound is Pillow's own, of the whole process, which the command owns; None leaves it as it is.
    """
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    if bound is not None:
        # Pillow warns above its bound and refuses above twice that.
        Image.MAX_IMAGE_PIXELS = max(before or 0, bound)
    # Python prints the errors of a log that nobody has set up.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
