"""What is wrong with an array of another shape than the model takes, and how to make it fit."""

from __future__ import annotations

from collections.abc import Sequence

_PICTURE_CHANNELS = (1, 3, 4)


def shape_hint(name: str, have: Sequence[int], want: Sequence[int | None]) -> str | None:
    """The next step for images that a model does not take; None where it is not known.

    Args:
        name: of the array, for the hint.
        have: its shape, [B, H, W, C] or [B, H, W], or that of one image without its batch.
        want: what the model takes, None for a size that is free.
    """
    if len(want) == 3:
        return _without_channels(name, have, want)
    if len(want) != 4 or want[1] is None:
        return None
    *_, height, width, channels = want
    if len(have) == 4 and have[1] == channels != have[3]:
        return f"channels come last: {name}.transpose(0, 2, 3, 1)"
    if tuple(have[-2:]) == (height, width) and (len(have) < 4 or have[0] == 1):
        return _missing_channels(name, channels)
    if len(have) == 4 and tuple(have[1:3]) == (height, width):
        return _other_channels(name, have[3], channels)
    read = "saliency_client.images.load_image does it"
    if channels in _PICTURE_CHANNELS and (len(have) != 4 or have[3] != channels):
        read = (
            f"saliency_client.images.load_image(path, size=({height}, {width}), channels={channels}) does it"
        )
    return f"resize to height {height}, width {width}; {read}"


def _missing_channels(name: str, channels: int | None) -> str:
    if channels == 1:
        return f"add the axis of the one channel: {name}[..., None]"
    repeated = f"{name}[..., None].repeat({channels}, axis=-1)"
    return f"only the channels are missing, {channels}: of gray images, {repeated}"


def _other_channels(name: str, have: int, want: int | None) -> str:
    """How to convert images that have the right size."""
    wrong = f"only the channels differ, {have} for {want}"
    if (have, want) == (4, 3):
        return f"{wrong}: leave alpha out with {name}[..., :3]"
    if (have, want) == (2, 1):
        return f"{wrong}: leave alpha out with {name}[..., :1]"
    if have == 1 and want == 3:
        return f"{wrong}: repeat the gray with {name}.repeat(3, axis=-1)"
    if have in _PICTURE_CHANNELS and want in _PICTURE_CHANNELS:
        return f"{wrong}: convert, as saliency_client.images.load_image(path, size=…, channels={want}) does"
    return f"{wrong}: the model was made for other data than these"


def _without_channels(name: str, have: Sequence[int], want: Sequence[int | None]) -> str | None:
    """Of a model whose images have no axis for channels."""
    size = tuple(want[1:])
    if len(have) != 4 or tuple(have[1:3]) != size:
        return None
    if have[3] == 1:
        return f"leave out the axis of the one channel: {name}[..., 0]"
    return (
        f"the model takes images without channels: of pictures, the gray that "
        f"saliency_client.images.load_image(path, size={size}, channels=1).array[..., 0] gives"
    )
