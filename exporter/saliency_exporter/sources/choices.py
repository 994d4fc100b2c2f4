"""What a user may choose where a model leaves it open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from saliency_exporter.errors import ExportError


@dataclass(frozen=True)
class Choices:
    """The user's choices; None or empty where none was made.

    Attributes:
        image_size: (H, W) of an image model.
        input_shape: shape of one example of a model of any rank, without the batch.
        input: name of the input that is explained, of a model with several.
        held: name of every other input to the value that it always has: one example's, without the batch.
        output: name of the output with the class scores, of a model with several.
        signature: which signature of a SavedModel is the forward pass.
    """

    image_size: tuple[int, int] | None = None
    input_shape: tuple[int, ...] | None = None
    input: str | None = None
    held: Mapping[str, np.ndarray] = field(default_factory=dict)
    output: str | None = None
    signature: str | None = None

    def __post_init__(self) -> None:
        """Refuses sizes that no input has.

        Raises:
            ExportError: a size below 1, or both an image size and an input shape.
        """
        if self.image_size is not None and self.input_shape is not None:
            raise ExportError("--image-size and --input-shape exclude one another", hint="give one of them")
        if self.image_size is not None and min(self.image_size) < 1:
            height, width = self.image_size
            raise ExportError(f"--image-size {height} {width}: both must be at least 1")
        if self.input_shape is not None and min(self.input_shape, default=0) < 1:
            sizes = ",".join(map(str, self.input_shape))
            raise ExportError(f"--input-shape {sizes}: every size must be at least 1")


NO_CHOICES = Choices()
