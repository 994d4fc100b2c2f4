"""From the encoded bytes of a picture to the array that a model takes, in whatever process that is done."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from saliency_client._errors import InputError, ItemError, SaliencyError

if TYPE_CHECKING:
    from saliency_client._signatures import Signature
    from saliency_client.images import Resize

Image = bytes | bytearray | memoryview | npt.NDArray[Any]
"""An encoded picture, the bytes of an .npy file, or the array itself."""
_NUMPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class Decoding:
    """What a model takes, and how a picture becomes that.

    Attributes:
        shape: [H, W, C] of a model input, or [H, W] without channels.
        dtype: of a model input.
        resize: as for `saliency_client.images.load_image`; `draft` too.
        max_pixels: of a picture; None: Pillow's bound.
        draft: see there.
    """

    shape: tuple[int, ...]
    dtype: str
    resize: Resize = "crop"
    max_pixels: int | None = None
    draft: bool = False

    @classmethod
    def of(cls, signature: Signature, **how: Any) -> Decoding:
        """For the images of a signature.

        Raises:
            InputError: its images have no fixed size.
        """
        size = signature.image_size
        spec = signature.inputs["images"]
        channels = spec.shape[3:] if spec.shape else ()
        return cls((*size, *(count or 0 for count in channels)), spec.dtype, **how)

    def decode(self, image: Image, notes: list[str] | None = None) -> npt.NDArray[Any]:
        """The model input of one image; an array is taken as it is.

        Args:
            image: encoded, or an array.
            notes: gets what a person may want to know of how the picture was read.

        Raises:
            InputError: it cannot be read, is too large, or a photo where the model takes no photos.
        """
        from saliency_client.images import DEFAULT_MAX_PIXELS, ImageError, load_array, load_image

        if isinstance(image, np.ndarray) and image.dtype != object:
            return image
        file = io.BytesIO(bytes(image))
        file.name = "the file"  # in messages
        if file.getbuffer()[: len(_NUMPY_MAGIC)] == _NUMPY_MAGIC:
            return load_array(file, self.shape, self.dtype).array
        if self.dtype != "uint8":
            raise ImageError(
                f"the model takes {self.dtype} values that its network has been fed with, not photos",
                hint=f"export it with --preprocessing, or give arrays {list(self.shape)} as .npy files",
            )
        photo = load_image(
            file,
            (self.shape[0], self.shape[1]),
            channels=self.shape[2] if len(self.shape) > 2 else 1,
            resize=self.resize,
            max_pixels=self.max_pixels or DEFAULT_MAX_PIXELS,
            draft=self.draft,
        )
        if notes is not None:
            notes += photo.notes
        return photo.array.reshape(self.shape)


class DecodedBatch(list["npt.NDArray[Any] | SaliencyError"]):
    """Model inputs, or the error in the place of one.

    Attributes:
        notes: on some of them, by their index.
    """

    def __init__(self) -> None:
        super().__init__()
        self.notes: dict[int, list[str]] = {}


def decode_all(decoding: Decoding, images: Sequence[Image | SaliencyError | None]) -> DecodedBatch:
    """Of each image its model input, or the error in its place; what is an error already stays one.

    A column of an engine may hold None: a row without an image.
    """
    decoded = DecodedBatch()
    for index, image in enumerate(images):
        if isinstance(image, SaliencyError):
            decoded.append(image)
            continue
        if image is None:
            decoded.append(ItemError("the row has no image"))
            continue
        try:
            notes: list[str] = []
            decoded.append(decoding.decode(image, notes))
            if notes:
                decoded.notes[index] = notes
        except InputError as error:
            decoded.append(error)
        # Decoders of pictures meet damaged files with errors of any kind.
        except Exception as error:
            decoded.append(ItemError(f"the image cannot be read: {type(error).__name__}: {error}"))
    return decoded
