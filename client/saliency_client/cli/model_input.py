"""What a served model takes and gives, as far as a command needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from saliency_client._signatures import listed_signatures, predictions_signature
from saliency_client.cli.errors import CommandError
from saliency_client.images import ImageError

if TYPE_CHECKING:
    from saliency_client import Signature

# What is found below this distance from 1 is a row of probabilities in float32.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ModelInput:
    """The images that a signature takes: [H, W, C] of a dtype; [H, W] where `channels` is None."""

    signature: str
    height: int
    width: int
    channels: int | None
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        size = self.height, self.width
        return size if self.channels is None else (*size, self.channels)

    def check_takes_photos(self) -> None:
        """Raise ImageError unless a photo's bytes are what the model takes."""
        if self.dtype != "uint8":
            raise ImageError(
                f"the model takes {self.dtype} values that its network has been fed with, not photos: "
                "its preprocessing is not part of it",
                hint=f"export it with --preprocessing, or give arrays {list(self.shape)} as .npy files",
            )


def signature_of_predictions(signatures: Mapping[str, Signature]) -> Signature:
    """The signature that predicts from images.

    Raises:
        CommandError: the model has none.
    """
    name = predictions_signature(signatures)
    if name not in signatures:
        raise CommandError(f"the model has no signature {name}; it has {listed_signatures(signatures)}")
    return signatures[name]


def model_input(signature: Signature, signatures: Mapping[str, Signature] | None = None) -> ModelInput:
    """The images that a signature takes, from the server's metadata.

    Args:
        signature: that takes them.
        signatures: all of the model, which tell of images without channels; default this one.

    Raises:
        CommandError: its input is not one image of a fixed size.
    """
    explaining = (signatures or {signature.name: signature}).values()
    gray = any(one.method is not None and not one.has_channels for one in explaining)
    axes = 3 if gray else 4
    spec = signature.inputs.get("images") or next(iter(signature.inputs.values()), None)
    shape = spec.shape if spec is not None else None
    if spec is None or shape is None or len(shape) != axes or None in shape[1:]:
        raise CommandError(
            f"signature {signature.name} takes {spec or 'nothing'}, not images [B, H, W, C] of a fixed size",
            hint="this command is for images; the Python library takes input of any shape",
        )
    height, width, *channels = (size or 0 for size in shape[1:])
    return ModelInput(signature.name, height, width, channels[0] if channels else None, spec.dtype)


def class_scores(
    outputs: Mapping[str, npt.NDArray[np.generic]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
    """Score and probability of each class, from the answer of any classifier.

    Args:
        outputs: for one image. `logits` and `probabilities`, or any output [1, classes]; of that, rows that
            are within [0, 1] and sum to 1 are probabilities.

    Returns:
        [classes] scores, and [classes] probabilities or None.

    Raises:
        CommandError: no output is [1, classes] of numbers.
    """
    rows = {
        name: np.asarray(value[0], np.float64)
        for name, value in outputs.items()
        if value.ndim == 2 and value.dtype.kind in "fiu" and value.shape[0] == 1
    }
    probabilities = rows.get("probabilities")
    scores = rows.get("logits")
    if scores is None and probabilities is None:
        if not rows:
            raise CommandError(f"no output is [1, classes]; there are {', '.join(outputs) or 'none'}")
        scores = next(iter(rows.values()))
        if scores.min() >= 0 and abs(scores.sum() - 1) < _SUM_TOLERANCE:
            probabilities = scores
    if scores is None:
        assert probabilities is not None
        scores = probabilities
    return scores, probabilities
