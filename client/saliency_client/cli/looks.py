"""How pictures are drawn: which options go together, and what a server has to send for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from saliency_client import maps, render
from saliency_client.cli.errors import UsageError
from saliency_client.maps import Polarity

STYLES = ("overlay", "heatmap", "masked", "outlines", "panel")
PICTURE_FORMATS = frozenset({"png", "jpg"})


@dataclass(frozen=True)
class Look:
    """How a picture is drawn; None where the style's own default holds.

    Attributes:
        style: one of `STYLES`.
        polarity: the part of the map with signs that is drawn; None: `saliency` is drawn, which has none.
        regions: draw regions (XRAI) instead of pixels.
        top: of regions, the percent of the image that the best ones cover, which are outlined or kept.
    """

    style: str = "overlay"
    colormap: str | None = None
    opacity: float | None = None
    clip: float = maps.DEFAULT_CLIP
    clip_low: float | None = None
    polarity: Polarity | None = None
    photo_colors: bool = False
    regions: bool = False
    top: float | None = None

    @property
    def signed(self) -> bool:
        """Whether both signs are drawn, in two colors."""
        return self.polarity == "both"

    def check(self, *, methods: int = 1) -> None:
        """Raise UsageError for options that do not go together, or an unknown color map."""
        if self.regions and self.polarity is not None:
            raise UsageError(f"--regions ranks regions by the whole map; {self._polarity} is not for it")
        if self.top is not None and not self.regions:
            raise UsageError("--top-regions is for --regions")
        if self.polarity is not None and (self.style == "panel" or (self.signed and self.style == "masked")):
            shows = "the positive and the negative part already" if self.style == "panel" else "no sign"
            allowed = "overlay, heatmap and outlines" if self.signed else "one view at a time"
            raise UsageError(f"{self._polarity} is for {allowed}; {self.style} shows {shows}")
        if self.style == "panel" and methods > 1:
            raise UsageError(
                "--style panel shows one method; several are drawn side by side in any other style",
                hint="leave --style out, or choose heatmap",
            )
        if self.opacity is not None and self.style != "overlay":
            raise UsageError(f"--opacity is for overlay, not for {self.style}")
        if self.photo_colors and self.style != "overlay":
            raise UsageError(f"--photo-colors is for overlay, not for {self.style}")
        if self.clip_low is not None:
            self._check_clip_low()
        if self.colormap is None:
            return
        if self.style == "masked":
            raise UsageError("--colormap is not for masked, which keeps the photo's colors")
        try:
            render.colormap_name(self.colormap)
        except ValueError as error:
            raise UsageError(str(error), hint="cmap-docs.readthedocs.io shows all of them") from error

    def needs_signed_map(self, formats: Iterable[str]) -> bool:
        """Whether a file of it needs the method's map with its signs, and nothing else will do."""
        drawn = not PICTURE_FORMATS.isdisjoint(formats)
        return self.polarity in ("negative", "both") or (self.style == "panel" and drawn and not self.regions)

    def draws_signed_map(self, formats: Iterable[str]) -> bool:
        """Whether a file of it shows the method's map with its signs, where the method has one."""
        return self.regions or self.polarity is not None or self.needs_signed_map(formats)

    @property
    def _polarity(self) -> str:
        return "--signed" if self.signed else f"--polarity {self.polarity}"

    def _check_clip_low(self) -> None:
        assert self.clip_low is not None
        if self.style == "panel":
            raise UsageError("--clip-low is not for panel, whose scale begins at 0")
        if self.regions and self.style in ("masked", "outlines"):
            raise UsageError(
                f"--clip-low is not for {self.style} with --regions",
                hint="--top-regions says how many are shown",
            )
        if self.clip_low >= self.clip:
            raise UsageError(
                f"--clip-low is {self.clip_low:g} and --clip is {self.clip:g}; it must be the smaller one"
            )


def files_of(looks: Sequence[Look], formats: Sequence[str]) -> list[tuple[Look, tuple[str, ...]]]:
    """The formats of each look's files: a picture for every look, arrays once, with the first."""
    first, *others = looks
    drawn = tuple(format for format in formats if format in PICTURE_FORMATS)
    return [(first, tuple(formats)), *((look, drawn) for look in others if drawn)]


def needed_outputs(
    looks: Sequence[Look], formats: Iterable[str], *, averaged: bool = False
) -> Literal["all"] | None:
    """What to ask a signature for: all where a file needs the signed map, else all but the large outputs.

    Not the exact list for each style: for every other list of outputs a server prunes its graph anew, and
    compiles it anew with XLA, which takes seconds. With two lists, warmup records can cover both.

    Args:
        looks: how the pictures are drawn.
        formats: of all files.
        averaged: the map is the average of several requests, which is taken of maps with signs.
    """
    chosen = set(formats)
    drawn_from_signs = any(look.draws_signed_map(chosen) for look in looks)
    return "all" if averaged or drawn_from_signs or "npz" in chosen else None
