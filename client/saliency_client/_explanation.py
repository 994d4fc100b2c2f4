"""The answer to one explain call."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from saliency_client._accuracy import SETTLED, samples_needed
from saliency_client._contract import RELATIVE_ERROR, SAMPLES_USED, SIGNED_MAPS
from saliency_client._errors import InputError, MissingOutput
from saliency_client._files import write_whole
from saliency_client._tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image

    from saliency_client.images import Photo

FloatArray = npt.NDArray[np.float32]


class Explanation(Sequence["Explanation"]):
    """Maps and facts about B images, as the server computed them.

    Shapes and dtypes were checked when the answer came; nothing is decoded before it is asked for. Maps are
    read-only views of the received bytes, which they keep in memory: copy one to change it, or to keep it
    alone. Text becomes str when it is first read.

    Every output that came is an attribute and an item: `explanation.saliency`, `explanation["saliency"]`;
    `outputs` holds all of them by name. One that did not come raises MissingOutput, which says how to ask for
    it or that the method has none such. `method`, `model` and `version` say what computed them (`version`
    None: the server did not say).

    An explanation is a sequence of its images: indexing, slicing, iteration and `len`; `explanation[i]` has
    B = 1. `in` looks for the name of an output.

    Example:
        >>> explanation = client.explain(images[0])
        >>> explanation.label, explanation.saliency.shape
        (array(['class 0'], dtype=object), (1, 224, 224))
        >>> client.explain(images, method="smooth")["relative_error"].shape
        (2,)
    """

    def __init__(
        self,
        outputs: Mapping[str, Array],
        *,
        method: str,
        model: str,
        version: int | None = None,
        offered: Iterable[str] | None = None,
        channels: bool = True,
    ) -> None:
        """Arrays by name, each with B first.

        Args:
            outputs: the arrays.
            method: what computed them.
            model: of which model.
            version: and version; None: the server did not say.
            offered: all outputs that the method has, if that is known.
            channels: whether the last axis of the method's map holds channels; images [B, H, W] have none.
        """
        self._arrays = dict(outputs)
        self._offered = None if offered is None else tuple(offered)
        self.outputs: Mapping[str, Array] = _Outputs(self._arrays)
        self.method = method
        self.model = model
        self.version = version
        self._channels = channels

    @property
    def saliency(self) -> FloatArray:
        """[B, H, W] float32 ≥ 0: how much each pixel counts.

        Of `gradients`: max over channels of |gradients| (Simonyan et al. 2013, arXiv 1312.6034). Of
        `attributions`: |sum over channels of attributions|.
        """
        return self["saliency"]

    @property
    def gradients(self) -> FloatArray:
        """As the images, float32, signed: derivative of the score by the model's input, or a like signal."""
        return self["gradients"]

    @property
    def class_index(self) -> npt.NDArray[np.int32]:
        """[B] int32: the class that was explained."""
        return self["class_index"]

    @property
    def score(self) -> FloatArray:
        """[B] float32: the unnormalized class score (logit) of the image."""
        return self["score"]

    @property
    def probability(self) -> FloatArray:
        """[B] float32 in [0, 1]: the model's probability of that class."""
        return self["probability"]

    @property
    def label(self) -> npt.NDArray[np.object_]:
        """[B] of str: the name of that class, where the model was exported with labels."""
        return self["label"]

    def __getattr__(self, name: str) -> Array:
        """Any other output, by its name."""
        # Python's protocols look for names of their own, also before there is anything to look in.
        if name.startswith("_") or "_arrays" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._arrays})

    def __len__(self) -> int:
        return next((len(value) for value in self._arrays.values() if value.ndim), 0)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Explanation: ...

    @overload
    def __getitem__(self, index: slice) -> Explanation: ...

    @overload
    def __getitem__(self, index: str) -> Array: ...

    def __getitem__(self, index: SupportsIndex | slice | str) -> Explanation | Array:
        """One image, some images, or an output by its name.

        Raises:
            IndexError: there is no such image.
            MissingOutput: the output did not come.
        """
        if isinstance(index, str):
            if index not in self._arrays:
                raise self._missing(index)
            return self.outputs[index]
        if isinstance(index, slice):
            return self._taken(index)
        try:
            number = operator.index(index)
        except TypeError:
            raise TypeError(
                f"an explanation is indexed by whole numbers, slices and names of outputs, not {index!r}"
            ) from None
        size = len(self)
        if not -size <= number < size:
            raise IndexError(f"image {number} of {size}")
        at = number % size
        return self._taken(slice(at, at + 1))

    def __iter__(self) -> Iterator[Explanation]:
        return (self[index] for index in range(len(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __repr__(self) -> str:
        parts = [f"method={self.method!r}", f"model={self.model!r}"]
        if self.version is not None:
            parts.append(f"version={self.version}")
        parts += [f"{name}={_shown(value)}" for name, value in self.outputs.items()]
        return f"Explanation({', '.join(parts)})"

    def absolute(self) -> FloatArray:
        """[B, H, W] float32 ≥ 0: sum over channels of |gradients|, or of |attributions|.

        Raises:
            MissingOutput: that map was not asked for; `positive` and `negative` too.

        Example:
            >>> client.explain(images, outputs="gradients").absolute().shape
            (2, 224, 224)
        """
        from saliency_client import maps

        return maps.absolute(self._signed_map())

    def positive(self) -> FloatArray:
        """[B, H, W] float32 ≥ 0: sum over channels of max(g, 0), g the same; where more raises the score.

        Example:
            >>> explanation = client.explain(images, outputs="gradients")
            >>> signed = explanation.positive() - explanation.negative()
            >>> numpy.allclose(signed, explanation.gradients.sum(axis=-1), atol=1e-5)
            True
        """
        from saliency_client import maps

        return maps.positive(self._signed_map())

    def negative(self) -> FloatArray:
        """[B, H, W] float32 ≥ 0: sum over channels of max(−g, 0), g the same; where more lowers the score.

        Example:
            >>> bool((client.explain(images, outputs="gradients").negative() >= 0).all())
            True
        """
        from saliency_client import maps

        return maps.negative(self._signed_map())

    def normalized(self, *, clip: float = 99.0) -> FloatArray:
        """[B, H, W] float32 in [0, 1]: `saliency` with each map's minimum at 0 and `clip`-th percentile at 1.

        Values above the percentile are 1; a constant map gives zeros.

        Raises:
            MissingOutput: there is no `saliency`.
            ValueError: `clip` is not in (0, 100], or the map holds NaN or infinity.

        Example:
            >>> maps = client.explain(images).normalized()
            >>> float(maps.min()), float(maps.max())
            (0.0, 1.0)
        """
        from saliency_client import maps

        return maps.normalize(self.saliency, clip=clip)

    def overlay(
        self,
        image: Image | Photo | Array,
        *,
        colormap: str | None = None,
        opacity: float = 0.9,
        clip: float = 99.0,
    ) -> Image:
        """A picture of `saliency` in colors over the image, as `saliency_client.render.overlay` makes it.

        Args:
            image: a Pillow image, an array [H, W, C], [1, H, W, C] or [H, W], or a
                `saliency_client.images.Photo`, which knows what part of the picture the model saw. Any size;
                the map is scaled to it.
            colormap: a name of the `cmap` catalog; None: a perceptual one.
            opacity: of the hottest color, in [0, 1].
            clip: percentile that is shown as the hottest color, in (0, 100].

        Raises:
            InputError: there are several images (take one: explanation[i]), or the array is no picture, such
                as [C, H, W]; MissingOutput: no `saliency`.
            TypeError: `image` is none of these, such as a path.
            ValueError: an option is out of range, or the map holds NaN or infinity.

        Example:
            >>> explanation[0].overlay(images[0]).size
            (224, 224)
        """
        from saliency_client import images, render

        if len(self) != 1:
            raise InputError(
                f"an overlay shows one image; this explanation has {len(self)}",
                hint="take one of them: explanation[i].overlay(image)",
            )
        saliency = self.saliency[0]
        if isinstance(image, images.Photo):
            picture, box = image.picture, image.box
        else:
            picture, box = images.shown_picture(image), None
        return render.overlay(picture, saliency, box, colormap=colormap, opacity=opacity, clip=clip)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Write all outputs to a `.npz` file, or `saliency` alone to a `.npy` file; whole or not at all.

        `numpy.load` reads either; labels are saved as NumPy text.

        Raises:
            InputError: the name ends in neither; MissingOutput: there is no `saliency` for `.npy`.
            OSError: the file cannot be written; FileExistsError without `overwrite`.

        Example:
            >>> explanation.save("maps.npz")
            >>> sorted(numpy.load("maps.npz"))
            ['class_index', 'label', 'probability', 'saliency', 'score']
        """
        target = Path(path)
        if target.suffix == ".npy":
            saliency = self.saliency
            write_whole(target, lambda file: np.save(file, saliency), overwrite=overwrite)
        elif target.suffix == ".npz":
            arrays: dict[str, Any] = {
                name: value.astype(np.str_) if value.dtype == object else value
                for name, value in self.outputs.items()
            }
            write_whole(target, lambda file: np.savez(file, **arrays), overwrite=overwrite)
        else:
            raise InputError(f"{target} ends in neither .npz (all outputs) nor .npy (saliency)")

    def samples_needed(self, target_error: float = SETTLED) -> npt.NDArray[np.float64]:
        """[B]: about how many samples, or masks, a relative error takes: samples_used · (error ⁄ target)².

        Two digits, rounded up. Infinite where the map has no signal beyond its noise yet (its error is
        infinite), NaN where the error is not known (one sample).

        Raises:
            MissingOutput: the method has no `relative_error`, or no `samples_used`, as those of exports that
                are older than it.
            InputError: the target is not above 0.

        Example:
            >>> smooth = client.explain(images[0], method="smooth", num_samples=20)
            >>> smooth.relative_error.round(2), smooth.samples_needed(0.3)
            (array([0.79], dtype=float32), array([140.]))
        """
        if not target_error > 0:
            raise InputError(f"target_error is {target_error!r}; it is a number above 0")
        return samples_needed(self[RELATIVE_ERROR], self[SAMPLES_USED], target_error)

    @property
    def offered_signed_map(self) -> str | None:
        """The output that holds the method's own map with signs, whether it came or not; None: it has none.

        Example:
            >>> client.explain(images).offered_signed_map
            'gradients'
        """
        return next(
            (name for name in SIGNED_MAPS if name in self._arrays or name in (self._offered or ())), None
        )

    @property
    def has_channels(self) -> bool:
        """Whether the last axis of the method's map holds channels; images [B, H, W] have none."""
        return self._channels

    def with_outputs(self, outputs: Mapping[str, Array]) -> Explanation:
        """The same with other arrays by name, such as averages.

        Example:
            >>> explanation = client.explain(images)
            >>> half = explanation.with_outputs({"saliency": explanation.saliency / 2})
            >>> half.saliency.shape
            (2, 224, 224)
        """
        return Explanation(
            outputs,
            method=self.method,
            model=self.model,
            version=self.version,
            offered=self._offered,
            channels=self._channels,
        )

    def _signed_map(self) -> Array:
        """The method's own map, with signs, [B, H, W, C]; of images without channels, C is 1."""
        own = self[next((name for name in SIGNED_MAPS if name in self._arrays), self._offered_map())]
        return own if self._channels else own[..., np.newaxis]

    def _offered_map(self) -> str:
        return next((name for name in SIGNED_MAPS if name in (self._offered or ())), SIGNED_MAPS[0])

    def _missing(self, name: str) -> MissingOutput:
        held = ", ".join(self._arrays) or "none"
        if self._offered is None or name in self._offered:
            return MissingOutput(
                f"this explanation has no {name}; it has {held}",
                hint=f"ask for it: explain(…, outputs=[…, {name!r}]), or outputs='all'",
                model=self.model,
            )
        return MissingOutput(
            f"method {self.method!r} of model {self.model!r} has no output {name!r}; "
            f"it has {', '.join(self._offered)}",
            hint="outputs=[…] asks for any of these; signatures() shows those of the other methods",
            model=self.model,
        )

    def _taken(self, some: slice) -> Explanation:
        return self.with_outputs(
            {name: value[some] if value.ndim else value for name, value in self._arrays.items()}
        )


class _Outputs(Mapping[str, Array]):
    """Arrays by name; text is decoded when it is first asked for."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        self._texts: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        array = self._arrays[name]
        if array.dtype != object:
            return array
        if name not in self._texts:
            self._texts[name] = _text(array)
        return self._texts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return repr(dict(self))


def _text(values: Array) -> Array:
    """UTF-8 bytes as str; a broken character becomes U+FFFD."""
    text = np.empty(values.shape, dtype=object)
    for index, value in np.ndenumerate(values):
        text[index] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return text


def _shown(value: Array) -> str:
    """A short value in full, a long one by its dtype and shape."""
    if value.ndim <= 1 and value.size <= 4:
        items: list[Any] = value.tolist()
        return (
            "[" + ", ".join(f"{item:.4g}" if isinstance(item, float) else repr(item) for item in items) + "]"
        )
    dtype = "str" if value.dtype == object else value.dtype.name
    return f"{dtype}[{','.join(map(str, value.shape))}]"
