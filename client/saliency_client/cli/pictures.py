"""An explanation and its photo to a file's bytes, in any style and format."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saliency_client import maps, render
from saliency_client.cli import marks
from saliency_client.cli.errors import CommandError, UsageError
from saliency_client.cli.show import number_texts

if TYPE_CHECKING:
    from PIL import Image

    from saliency_client import Explanation
    from saliency_client.images import Photo

STYLES = ("overlay", "heatmap", "masked", "panel")
PICTURE_FORMATS = frozenset({"png", "jpg"})
_JPEG_QUALITY = 92
# As small as with zlib's own 6 for these pictures, in half the time.
_PNG_LEVEL = 4
# Photos hold no repetitions but runs: looking for those alone takes half of that time, for 3 % more bytes.
_PHOTO_STYLES = frozenset({"overlay", "masked"})
_RUNS_ALONE = {"compress_level": 1, "compress_type": 3}


@dataclass(frozen=True)
class Look:
    """How a picture is drawn; None where the style's own default holds."""

    style: str = "overlay"
    colormap: str | None = None
    opacity: float | None = None
    clip: float = maps.DEFAULT_CLIP
    signed: bool = False

    def check(self) -> None:
        """Raise UsageError for options that do not go together, or an unknown color map."""
        if self.signed and self.style in ("masked", "panel"):
            shows = "the positive and the negative part already" if self.style == "panel" else "no sign"
            raise UsageError(f"--signed is for overlay and heatmap; {self.style} shows {shows}")
        if self.opacity is not None and self.style != "overlay":
            raise UsageError(f"--opacity is for overlay, not for {self.style}")
        if self.colormap is None:
            return
        if self.style == "masked":
            raise UsageError("--colormap is not for masked, which keeps the photo's colors")
        try:
            render.colormap_name(self.colormap)
        except ValueError as error:
            raise UsageError(str(error), hint="cmap-docs.readthedocs.io shows all of them") from error

    def draws_signed_map(self, formats: Iterable[str]) -> bool:
        """Whether a file of it needs the method's map with its signs."""
        return self.signed or (self.style == "panel" and not PICTURE_FORMATS.isdisjoint(formats))


def files_of(looks: Sequence[Look], formats: Sequence[str]) -> list[tuple[Look, tuple[str, ...]]]:
    """The formats of each look's files: a picture for every look, arrays once, with the first."""
    first, *others = looks
    drawn = tuple(format for format in formats if format in PICTURE_FORMATS)
    return [(first, tuple(formats)), *((look, drawn) for look in others if drawn)]


def needed_outputs(looks: Sequence[Look], formats: Iterable[str]) -> Literal["all"] | None:
    """What to ask a signature for: all where a file needs the signed map, else all but the large outputs.

    Not the exact list for each style: for every other list of outputs a server prunes its graph anew, and
    compiles it anew with XLA, which takes seconds. With two lists, warmup records can cover both.
    """
    chosen = set(formats)
    drawn_from_signs = any(look.draws_signed_map(chosen) for look in looks)
    return "all" if drawn_from_signs or "npz" in chosen else None


def encode(
    explanation: Explanation,
    signed_map: str | None,
    photo: Photo,
    look: Look,
    format: str,
    facts: Mapping[str, Any],
    made_with: Mapping[str, Any],
    software: str,
) -> bytes:
    """The bytes of one file.

    Args:
        explanation: of one image, B = 1.
        signed_map: the output that holds the method's map with its signs.
        photo: that image.
        look: how it is drawn.
        format: "png", "jpg", "npy" or "npz".
        facts: written into files as text, and into the caption of a panel.
        made_with: the options beside these facts; written into files as well.
        software: who made the picture; written into it.

    Raises:
        CommandError: the map holds NaN or infinity.
    """
    stream = io.BytesIO()
    if format == "npz":
        np.savez(stream, box=np.asarray(photo.box), **_arrays(explanation))
        with zipfile.ZipFile(stream, "a") as archive:
            archive.comment = marks.comment(software, {**facts, **made_with})
    elif format == "npy":
        np.save(stream, _values(explanation, signed_map, look), allow_pickle=False)
    else:
        picture = draw(explanation, signed_map, photo, look, facts)
        _save(picture, look.style, stream, format, {**facts, **made_with}, software)
    return stream.getvalue()


def draw(
    explanation: Explanation, signed_map: str | None, photo: Photo, look: Look, facts: Mapping[str, Any]
) -> Image.Image:
    """The picture of one explanation, B = 1.

    Raises:
        CommandError: the map holds NaN or infinity.
    """
    scale: dict[str, Any] = {"clip": look.clip}
    colored = {**scale, "colormap": look.colormap}
    try:
        if look.style == "panel":
            signs = _signs(explanation, signed_map)
            title, subtitle = caption(facts)
            return render.panel(photo.picture, signs, photo.box, title=title, subtitle=subtitle, **colored)
        values = _values(explanation, signed_map, look)
        if look.style == "masked":
            return render.masked(photo.picture, values, photo.box, **scale)
        if look.style == "heatmap":
            return render.heatmap(photo.picture, values, photo.box, signed=look.signed, **colored)
        opacity = render.DEFAULT_OPACITY if look.opacity is None else look.opacity
        return render.overlay(
            photo.picture, values, photo.box, signed=look.signed, opacity=opacity, **colored
        )
    except ValueError as error:
        raise CommandError(
            f"no picture can be drawn: {error}", hint="--format npz keeps the raw values"
        ) from error


def caption(facts: Mapping[str, Any]) -> tuple[str, str]:
    """What a panel says above: the class and its probability; the method, the model and the score."""
    index, label, probability = facts.get("class_index"), facts.get("label"), facts.get("probability")
    name = f"{label} ({index})" if label else f"class {index}"
    title = name if probability is None else f"{name}, {100 * probability:.1f} %"
    version = f" version {facts['version']}" if facts.get("version") else ""
    parts = [f"{facts.get('method')}, {facts.get('model')}{version}"]
    if facts.get("score") is not None:
        parts.append(f"score {facts['score']:.2f}")
    parts += number_texts(facts)
    return title, ", ".join(parts)


def _values(explanation: Explanation, signed_map: str | None, look: Look) -> maps.FloatArray:
    """The map [H, W] that is drawn: `saliency`, or the sum over channels of the map with signs."""
    if look.signed:
        return maps.signed(_signs(explanation, signed_map))
    return _only(explanation, "saliency")


def _signs(explanation: Explanation, signed_map: str | None) -> maps.FloatArray:
    """The map with signs, [H, W, C]; of images without channels, C is 1."""
    own = _only(explanation, signed_map)
    return own[..., np.newaxis] if own.ndim == 2 else own


def _only(explanation: Explanation, output: str | None) -> maps.FloatArray:
    values = None if output is None else explanation.outputs.get(output)
    if values is None:
        raise CommandError(
            f"signature explain_{explanation.method} has no output {output!r}",
            hint="export the model again with saliency-exporter",
        )
    return np.asarray(values[0], np.float32)


def _arrays(explanation: Explanation) -> dict[str, Any]:
    """All outputs, without their batch axis; text as NumPy's own, which needs no pickle."""
    outputs = explanation.outputs.items()
    return {
        name: np.asarray(values[0], np.str_) if values.dtype == object else values[0]
        for name, values in outputs
    }


def _save(
    picture: Image.Image,
    style: str,
    stream: io.BytesIO,
    format: str,
    facts: Mapping[str, Any],
    software: str,
) -> None:
    if format == "png":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text(marks.SOFTWARE_KEY, software)
        info.add_text(marks.FACTS_KEY, marks.text(facts))
        compression = _RUNS_ALONE if style in _PHOTO_STYLES else {"compress_level": _PNG_LEVEL}
        picture.save(stream, "PNG", pnginfo=info, **compression)
    else:
        picture.save(stream, "JPEG", quality=_JPEG_QUALITY, comment=marks.comment(software, facts))
