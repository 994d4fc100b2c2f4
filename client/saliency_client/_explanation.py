"""The answer to one explain call."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from saliency_client._errors import InputError
from saliency_client._files import write_whole
from saliency_client._tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image

    from saliency_client.images import Photo

FloatArray = npt.NDArray[np.float32]


class Explanation:
    """Maps and facts about B images, as the server computed them.

    Shapes and dtypes were checked when the answer came; nothing is decoded before it is asked for. Maps are
    read-only views of the received bytes, which they keep in memory: copy one to change it, or to keep it
    alone. Text becomes str when it is first read. An attribute is None where the output was not asked for or
    the signature does not have it; `outputs` holds all that came, by name. `method`, `model` and `version`
    tell what computed them (`version` None: the server did not say).
    An explanation is a sequence of its images: `len`, `explanation[i]` and iteration give each with B = 1.

    Example:
        >>> explanation = client.explain(images[0])
        >>> explanation.label, explanation.saliency.shape
        (array(['class 0'], dtype=object), (1, 224, 224))
    """

    def __init__(
        self, outputs: Mapping[str, Array], *, method: str, model: str, version: int | None = None
    ) -> None:
        self._arrays = dict(outputs)
        self.outputs: Mapping[str, Array] = _Outputs(self._arrays)
        self.method = method
        self.model = model
        self.version = version

    @property
    def saliency(self) -> FloatArray | None:
        """[B, H, W] float32 ≥ 0: max over channels of |gradients| (Simonyan et al. 2013, arXiv 1312.6034)."""
        return self.outputs.get("saliency")

    @property
    def gradients(self) -> FloatArray | None:
        """[B, H, W, C] float32, signed: derivative of the score by the model's input; for smooth its mean."""
        return self.outputs.get("gradients")

    @property
    def class_index(self) -> npt.NDArray[np.int32] | None:
        """[B] int32: the class that was explained."""
        return self.outputs.get("class_index")

    @property
    def score(self) -> FloatArray | None:
        """[B] float32: the unnormalised class score (logit) of the image."""
        return self.outputs.get("score")

    @property
    def probability(self) -> FloatArray | None:
        """[B] float32 in [0, 1]: the model's probability of that class."""
        return self.outputs.get("probability")

    @property
    def label(self) -> npt.NDArray[np.object_] | None:
        """[B] of str: the name of that class, where the model was exported with labels."""
        return self.outputs.get("label")

    @property
    def variance(self) -> FloatArray | None:
        """[B, H, W, C] float32 ≥ 0: unbiased sample variance of the gradient over the noise; smooth only."""
        return self.outputs.get("variance")

    @property
    def relative_error(self) -> FloatArray | None:
        """[B] float32 ≥ 0: ‖standard error of the mean‖₂ / ‖mean‖₂, how unsettled a smooth map still is."""
        return self.outputs.get("relative_error")

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def __getitem__(self, index: int) -> Explanation:
        """The explanation of one image, with B = 1."""
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"image {index} of {size}")
        at = index % size
        return self._with({name: value[at : at + 1] for name, value in self._arrays.items()})

    def __iter__(self) -> Iterator[Explanation]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        parts = [f"method={self.method!r}", f"model={self.model!r}"]
        if self.version is not None:
            parts.append(f"version={self.version}")
        parts += [f"{name}={_shown(value)}" for name, value in self.outputs.items()]
        return f"Explanation({', '.join(parts)})"

    def absolute(self) -> FloatArray:
        """[B, H, W] float32 ≥ 0: sum over channels of |gradients|.

        Raises:
            InputError: `gradients` was not asked for; `positive` and `negative` too.

        Example:
            >>> client.explain(images, outputs="gradients").absolute().shape
            (2, 224, 224)
        """
        from saliency_client import maps

        return maps.absolute(self._needed("gradients"))

    def positive(self) -> FloatArray:
        """[B, H, W] float32 ≥ 0: sum over channels of max(gradients, 0), where more raises the score.

        Example:
            >>> explanation = client.explain(images, outputs="gradients")
            >>> signed = explanation.positive() - explanation.negative()
            >>> numpy.allclose(signed, explanation.gradients.sum(axis=-1), atol=1e-5)
            True
        """
        from saliency_client import maps

        return maps.positive(self._needed("gradients"))

    def negative(self) -> FloatArray:
        """[B, H, W] float32 ≥ 0: sum over channels of max(−gradients, 0), where more lowers the score.

        Example:
            >>> bool((client.explain(images, outputs="gradients").negative() >= 0).all())
            True
        """
        from saliency_client import maps

        return maps.negative(self._needed("gradients"))

    def normalized(self, *, clip: float = 99.0) -> FloatArray:
        """[B, H, W] float32 in [0, 1]: `saliency` with each map's minimum at 0 and `clip`-th percentile at 1.

        Values above the percentile are 1; a constant map gives zeros.

        Raises:
            InputError: `saliency` was not asked for.
            ValueError: `clip` is not in (0, 100], or the map holds NaN or infinity.

        Example:
            >>> maps = client.explain(images).normalized()
            >>> float(maps.min()), float(maps.max())
            (0.0, 1.0)
        """
        from saliency_client import maps

        return maps.normalize(self._needed("saliency"), clip=clip)

    def overlay(
        self,
        image: Image | Photo | Array,
        *,
        colormap: str | None = None,
        opacity: float = 0.9,
        clip: float = 99.0,
    ) -> Image:
        """A picture of `saliency` in colours over the image, as `saliency_client.render.overlay` makes it.

        Args:
            image: a Pillow image, a uint8 array [H, W, 3], or a `saliency_client.images.Photo`, which knows
                what part of the picture the model saw. Any size; the map is scaled to it.
            colormap: a name of the `cmap` catalogue; None: a perceptual one.
            opacity: of the hottest colour, in [0, 1].
            clip: percentile that is shown as the hottest colour, in (0, 100].

        Raises:
            InputError: there are several images (take one: explanation[i]), or no `saliency`.
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
        saliency = self._needed("saliency")[0]
        if isinstance(image, images.Photo):
            picture, box = image.picture, image.box
        else:
            picture, box = images.array_picture(image) if isinstance(image, np.ndarray) else image, None
        return render.overlay(picture, saliency, box, colormap=colormap, opacity=opacity, clip=clip)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Write all outputs to a `.npz` file, or `saliency` alone to a `.npy` file; whole or not at all.

        `numpy.load` reads either; labels are saved as NumPy text.

        Raises:
            InputError: the name ends in neither, or there is no `saliency` for `.npy`.
            OSError: the file cannot be written; FileExistsError without `overwrite`.

        Example:
            >>> explanation.save("maps.npz")
            >>> sorted(numpy.load("maps.npz"))
            ['class_index', 'label', 'probability', 'saliency', 'score']
        """
        target = Path(path)
        if target.suffix == ".npy":
            saliency = self._needed("saliency")
            write_whole(target, lambda file: np.save(file, saliency), overwrite=overwrite)
        elif target.suffix == ".npz":
            arrays: dict[str, Any] = {
                name: value.astype(np.str_) if value.dtype == object else value
                for name, value in self.outputs.items()
            }
            write_whole(target, lambda file: np.savez(file, **arrays), overwrite=overwrite)
        else:
            raise InputError(f"{target} ends in neither .npz (all outputs) nor .npy (saliency)")

    def _needed(self, name: str) -> Array:
        if name not in self.outputs:
            raise InputError(
                f"this explanation has no {name}; it has {', '.join(self.outputs)}",
                hint=f"ask for it: explain(…, outputs=[…, {name!r}]), or outputs='all'",
                model=self.model,
            )
        return self.outputs[name]

    def _with(self, outputs: Mapping[str, Array]) -> Explanation:
        return Explanation(outputs, method=self.method, model=self.model, version=self.version)


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
