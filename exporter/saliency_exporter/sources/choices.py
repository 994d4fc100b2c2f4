"""What a user may choose where a model leaves it open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from saliency_exporter.errors import ExportError

Channels = Literal["auto", "first", "last", "none"]
"""Where the channels of an input are: in its first axis behind the batch, in its last, or nowhere, as in gray
pictures [B, H, W]; "auto" where that is left to what the model does with them."""


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
        channels: where the input's channels are.
    """

    image_size: tuple[int, int] | None = None
    input_shape: tuple[int, ...] | None = None
    input: str | None = None
    held: Mapping[str, np.ndarray] = field(default_factory=dict)
    output: str | None = None
    signature: str | None = None
    channels: Channels = "auto"

    def __post_init__(self) -> None:
        """Refuses sizes that no input has.

        Raises:
            ExportError: a size below 1, or both an image size and an input shape.
        """
        if self.image_size is not None and self.input_shape is not None:
            raise ExportError("--image-size and --input-shape exclude one another", hint="give one of them")
        if self.image_size is not None and min(self.image_size) < 1:
            height, width = self.image_size
            raise ExportError(
                f"--image-size {height} {width}: both must be at least 1",
                hint="give the height and the width of the images in pixels, such as --image-size 224 224",
            )
        if self.input_shape is not None and min(self.input_shape, default=0) < 1:
            sizes, rest = ",".join(map(str, self.input_shape)), self.input_shape[1:]
            raise ExportError(
                f"--input-shape {sizes}: every size must be at least 1",
                hint=f"leave the batch out: --input-shape {','.join(map(str, rest))}"
                if rest and min(rest) >= 1
                else "give the sizes of one example, without the batch, such as --input-shape 128,80",
            )


NO_CHOICES = Choices()
