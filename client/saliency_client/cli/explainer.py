"""What becomes of one image: read, asked about, drawn."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from saliency_client import regions
from saliency_client._contract import RELATIVE_ERROR, TARGET_ERROR
from saliency_client._picture_room import ROOM
from saliency_client._signatures import number_of_classes
from saliency_client._slices import takes_slices
from saliency_client.cli import accuracy, baselines, classes, looks, marks, pictures
from saliency_client.cli.batch import in_halves
from saliency_client.cli.connection import Connection
from saliency_client.cli.errors import CommandError, UsageError
from saliency_client.cli.inputs import STDIN, Input, read_photo
from saliency_client.cli.methods import method_signature, parameters_of
from saliency_client.cli.model_input import ModelInput, class_scores, model_input
from saliency_client.cli.parameters import check
from saliency_client.cli.printer import Printer
from saliency_client.cli.version import release
from saliency_client.images import DEFAULT_MAX_PIXELS, Photo, Resize
from saliency_client.maps import Polarity

if TYPE_CHECKING:
    from saliency_client import Explanation, SaliencyClient, Signature

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
# Outputs of a number for an image that have a field of their own in a record.
_OWN_FIELDS = frozenset({"class_index", "probability", "score", "relative_error"})


@dataclass(frozen=True)
class ExplainOptions:
    """The options of the command, as typed."""

    images: tuple[str, ...]
    connection: Connection
    existing: Literal["refuse", "overwrite", "skip"]
    method: str
    baselines: tuple[str, ...]
    class_name: str | None
    class_index: int | None
    top: int | None
    parameters: Mapping[str, Any]
    out: str | None
    formats: tuple[str, ...]
    styles: tuple[str, ...]
    colormap: str | None
    opacity: float | None
    clip: float
    clip_low: float | None
    polarity: Polarity | None
    photo_colors: bool
    regions: bool
    top_regions: float | None
    resize: Resize
    max_pixels: int | None
    recursive: bool
    labels: Path | None
    fail_fast: bool
    concurrency: int
    batch_size: int
    wait: float | None

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods: of several, one picture shows all."""
        return tuple(self.method.split(","))

    @property
    def looks(self) -> tuple[looks.Look, ...]:
        """How pictures are drawn, one for each style."""
        return tuple(
            looks.Look(
                style,
                self.colormap,
                self.opacity,
                self.clip,
                self.clip_low,
                self.polarity,
                self.photo_colors,
                self.regions,
                self.top_regions,
            )
            for style in dict.fromkeys(self.styles)
        )


@dataclass(frozen=True)
class Result:
    """One explained class of one image: a record for each method, for JSON, and what was drawn of it.

    That is the bytes of its files, unless the explainer draws otherwise.
    """

    records: tuple[Mapping[str, Any], ...]
    contents: tuple[Any, ...]


@dataclass(frozen=True)
class _Wanted:
    """One class of one image, to be explained.

    Attributes:
        index: of the image among those that are explained together.
        photo: the image.
        class_index: None for the predicted class.
        rank: of the class, with --top.
        segments: cuts the image into segments, once for all that is drawn of it.
    """

    index: int
    photo: Photo
    segments: Callable[[], Any]
    class_index: int | None
    rank: int | None


@dataclass(frozen=True)
class _Ask:
    """What one method is asked for: its parameters, and the baselines that it is averaged over."""

    signature: Signature
    parameters: Mapping[str, Any]
    baselines: tuple[float, ...]

    @property
    def falls(self) -> bool:
        """Whether its error can be watched: a mean over samples up to a target, and over nothing else."""
        target = self.parameters.get(TARGET_ERROR, 0) > 0
        return target and not self.baselines and takes_slices(self.signature)


def _about_the_map(explanation: Explanation) -> list[str]:
    """What to know of a map that shows nothing."""
    if np.any(explanation.saliency):
        return []
    cam = (
        ": no place of its cam is positive, so none speaks for the class"
        if "cam" in explanation.outputs
        else ""
    )
    return [f"the map of {explanation.method} is zero everywhere{cam}"]


@dataclass
class Explainer:
    """Explains images, some at a time, from several threads; making it checks the options by the model.

    `watch`, where it is set, is told how the error of a mean falls, in words. `draw`, where it is given,
    draws an image's answers, with the rank of their class, in place of the files of `explain`.
    """

    options: ExplainOptions
    printer: Printer
    client: SaliencyClient
    class_names: classes.ClassNames | None
    formats: tuple[str, ...]
    draw: Callable[[Photo, Sequence[pictures.Answer], int | None], tuple[Any, ...]] | None = None
    watch: Callable[[str], None] | None = field(init=False, default=None)
    model: ModelInput = field(init=False)
    signatures: tuple[Signature, ...] = field(init=False)
    _asks: tuple[_Ask, ...] = field(init=False)
    _class_index: int | None = field(init=False)

    def __post_init__(self) -> None:
        options, signatures = self.options, self.client.signatures()
        self.signatures = tuple(method_signature(method, signatures) for method in options.methods)
        first = self.signatures[0]
        self.model = model_input(first, signatures)
        own = [parameters_of(one, options.parameters, self.signatures, signatures) for one in self.signatures]
        levels = [baselines.levels(one, self.signatures, signatures, options) for one in self.signatures]
        self._asks = tuple(
            _Ask(signature, parameters, gray)
            for signature, parameters, gray in zip(self.signatures, own, levels, strict=True)
        )
        for look in options.looks:
            for signature in self.signatures:
                if look.needs_signed_map(self.formats) and signature.signed_map is None:
                    negative = look.polarity == "negative"
                    shown = "--polarity negative shows" if negative else "--signed and the panel show"
                    raise UsageError(
                        f"method {signature.method} gives no signed map, which {shown}; it gives "
                        f"{', '.join(signature.outputs)}",
                        hint="choose another --style, such as overlay or heatmap, or another --method",
                    )
        known = number_of_classes(signatures)
        if options.top is not None and known is not None and options.top > known:
            raise UsageError(f"--top is {options.top}, and the model has {known} classes")
        self._class_index = self._given_class()
        if self._class_index is not None:
            check({"class_index": self._class_index}, first, signatures)
        for signature in self.signatures:
            self.printer.detail(f"signature {signature.name} takes images {signature.inputs['images']}")

    @contextmanager
    def watched(self, *, alone: bool) -> Iterator[None]:
        """Let a person at a terminal see errors fall, of a picture that is the only one."""
        if not alone or not any(ask.falls for ask in self._asks):
            yield
            return
        with self.printer.waiting("sampling") as self.watch:
            yield

    def explain(self, images: Sequence[Input]) -> list[list[Result] | Exception]:
        """Read images, explain the classes asked for, and draw them; of each image its results, or its error.

        They go to the server together, as many at a time as are not large: their pixels wait in memory until
        they are drawn.
        """
        left, results = deque(images), list[list[Result] | Exception]()
        while left:
            results += self._explain_some(left)
            if self.options.fail_fast and any(isinstance(result, Exception) for result in results):
                break
        return results

    @ROOM.kept()
    def _explain_some(self, left: deque[Input]) -> list[list[Result] | Exception]:
        """Take from `left` the images that have room together, and explain them."""
        waiting: list[tuple[Input, Photo | Exception]] = []
        room = DEFAULT_MAX_PIXELS // self.options.concurrency
        while left and room > 0:
            one = left.popleft()
            try:
                photo = self._read(one)
            except Exception as error:
                waiting.append((one, error))
                if self.options.fail_fast:
                    break
                continue
            waiting.append((one, photo))
            room -= photo.picture.width * photo.picture.height
        return self._explain_photos(waiting)

    def _read(self, one: Input) -> Photo:
        options = self.options
        bound = options.max_pixels or DEFAULT_MAX_PIXELS
        photo = read_photo(one, self.model, resize=options.resize, max_pixels=bound)
        self.printer.detail(f"{one.shown}: {photo.picture.size} pixels, the model sees {photo.box}")
        return photo

    def _explain_photos(
        self, images: Sequence[tuple[Input, Photo | Exception]]
    ) -> list[list[Result] | Exception]:
        outcomes: list[list[Result] | Exception] = [
            photo if isinstance(photo, Exception) else [] for _, photo in images
        ]
        photos = [(index, photo) for index, (_, photo) in enumerate(images) if isinstance(photo, Photo)]
        wanted: list[_Wanted] = []
        chosen = self._classes([photo for _, photo in photos])
        for (index, photo), indices in zip(photos, chosen, strict=True):
            if isinstance(indices, Exception):
                outcomes[index] = indices
                continue
            segments = cache(lambda photo=photo: regions.segment(photo.array))
            for rank, class_index in enumerate(indices, 1):
                wanted.append(
                    _Wanted(index, photo, segments, class_index, rank if self.options.top else None)
                )
        for start in range(0, len(wanted), self.options.batch_size):
            batch = wanted[start : start + self.options.batch_size]
            batch = [want for want in batch if not isinstance(outcomes[want.index], Exception)]
            for want, answer in zip(batch, self._patiently(self._ask, batch), strict=True):
                known = outcomes[want.index]
                if isinstance(known, Exception):
                    continue
                try:
                    if isinstance(answer, Exception):
                        raise answer
                    known.append(self._drawn(images[want.index][0], want, answer))
                except Exception as error:
                    outcomes[want.index] = error
        return outcomes

    def _ask(self, batch: Sequence[_Wanted]) -> list[list[tuple[Explanation, float]]]:
        """Of each: by each method the explanation, B = 1, and the milliseconds that all took together."""
        options = self.options
        indices = [-1 if want.class_index is None else want.class_index for want in batch]
        images = np.stack([want.photo.array for want in batch])
        by_method: list[list[tuple[Explanation, float]]] = []
        for ask in self._asks:
            started = time.perf_counter()
            arguments: dict[str, Any] = {
                "method": ask.signature.method,
                "class_index": None if set(indices) == {-1} else indices,
                "timeout": options.connection.timeout * len(batch),
                **ask.parameters,
            }
            if self.watch is not None and ask.falls:
                explanation = self._settled(images, arguments, self.watch)
            else:
                averaged = len(ask.baselines) > 1
                outputs = looks.needed_outputs(options.looks, self.formats, averaged=averaged)
                explanation = baselines.explain(
                    self.client, images, ask.baselines, outputs=outputs, **arguments
                )
            milliseconds = (time.perf_counter() - started) * 1000
            by_method.append([(one, milliseconds) for one in explanation])
        return [list(answers) for answers in zip(*by_method, strict=True)]

    def _settled(
        self, images: Any, arguments: Mapping[str, Any], watch: Callable[[str], None]
    ) -> Explanation:
        """Ask in slices, and tell after each how far the error has fallen."""
        fallen: list[float] = []
        for explanation in self.client.explain_until(images, **arguments):
            watch(accuracy.settling(explanation, arguments[TARGET_ERROR], fallen))
        return explanation

    def _patiently(
        self, ask: Callable[[Sequence[ItemT]], Sequence[ResultT]], items: Sequence[ItemT]
    ) -> list[ResultT | Exception]:
        """Ask; with --wait, wait for a server that does not answer, and ask again."""
        end = time.monotonic() + (self.options.wait or 0)
        outcomes = in_halves(ask, items)
        while any(_is_gone(outcome) for outcome in outcomes) and (left := end - time.monotonic()) > 0:
            try:
                self.client.wait_ready(left)
            except Exception:
                break
            # A server that is ready and does not answer is asked no more often than this.
            time.sleep(min(left, 0.5))
            outcomes = in_halves(ask, items)
        return outcomes

    def _drawn(self, one: Input, want: _Wanted, answered: Sequence[tuple[Explanation, float]]) -> Result:
        software = f"{marks.NAME} {release()}"
        answers = [
            pictures.Answer(
                explanation,
                ask.signature.signed_map,
                {
                    **facts_of(explanation, self.class_names, rank=want.rank),
                    "baselines": list(ask.baselines) or None,
                },
                want.segments,
            )
            for ask, (explanation, _) in zip(self._asks, answered, strict=True)
        ]
        contents: tuple[Any, ...]
        if self.draw is not None:
            contents = self.draw(want.photo, answers, want.rank)
        else:
            own = {**made_with(self.options), marks.IMAGE_FILE: _image_file(one)}
            contents = tuple(
                pictures.encode(answers, want.photo, look, format, own, software)
                for look, formats in looks.files_of(self.options.looks, self.formats)
                for format in formats
            )
        records = tuple(
            {
                "image": one.source,
                "status": "ok",
                **answer.facts,
                "milliseconds": round(milliseconds, 3),
                "notes": [
                    *want.photo.notes,
                    *_about_the_map(explanation),
                    *accuracy.about(explanation, ask.signature, ask.parameters),
                ],
            }
            for ask, answer, (explanation, milliseconds) in zip(self._asks, answers, answered, strict=True)
        )
        return Result(records, contents)

    def _classes(self, photos: Sequence[Photo]) -> Sequence[list[int | None] | Exception]:
        """The classes to explain of each photo, None for the predicted one."""
        if self.options.top is None:
            return [[self._class_index] for _ in photos]
        return self._patiently(self._best, photos)

    def _best(self, photos: Sequence[Photo]) -> list[list[int | None]]:
        """The most probable classes of each photo."""
        outputs = self.client.predict(
            np.stack([photo.array for photo in photos]),
            timeout=self.options.connection.timeout * len(photos),
        )
        top = self.options.top or 0
        best: list[list[int | None]] = []
        for row in range(len(photos)):
            one = {
                name: values[row : row + 1]
                for name, values in outputs.items()
                if values.shape[:1] == (len(photos),)
            }
            scores, probabilities = class_scores(one or outputs)
            if top > len(scores):
                raise CommandError(f"--top is {top}, and the model has {len(scores)} classes")
            order = np.argsort(-(scores if probabilities is None else probabilities), kind="stable")
            best.append([int(index) for index in order[:top]])
        return best

    def _given_class(self) -> int | None:
        name = self.options.class_name
        if self.options.class_index is not None or name is None:
            return self.options.class_index
        if not self.class_names:
            raise UsageError(
                "the served model has no class names",
                hint="give --class an index, or the names with --labels FILE",
            )
        return classes.find_class(name, self.class_names)


def _image_file(one: Input) -> dict[str, int] | None:
    return None if one.source == STDIN else marks.of_file(one.source)


def facts_of(
    explanation: Explanation, class_names: classes.ClassNames | None, *, rank: int | None = None
) -> dict[str, Any]:
    """What is told of one image's map, by the names of the fields of a JSON line.

    Args:
        explanation: B = 1.
        class_names: of all classes, where the answer has no label.
        rank: of the class, with --top.
    """
    outputs = explanation.outputs
    index = _first(outputs.get("class_index"))
    label = _first(outputs.get("label")) or None
    if label is None and index is not None and class_names and index < len(class_names):
        label = class_names[index]
    return {
        "method": explanation.method,
        "model": explanation.model,
        "version": explanation.version,
        "rank": rank,
        "class_index": index,
        "label": label,
        "probability": _first(outputs.get("probability")),
        "score": _first(outputs.get("score")),
        "relative_error": _first(outputs.get(RELATIVE_ERROR), endless=True),
        "outputs": {
            name: _first(values)
            for name, values in sorted(outputs.items())
            if values.ndim == 1 and values.dtype.kind in "fiu" and name not in _OWN_FIELDS
        },
    }


def made_with(options: ExplainOptions) -> dict[str, Any]:
    """The options that a file depends on and its name does not tell."""
    drawn = {
        "resize": options.resize,
        "clip": options.clip,
        "colormap": options.colormap,
        "opacity": options.opacity,
    }
    # Options that came later are told where they are used: files that are older stay what they were.
    later = {
        "clip_low": options.clip_low,
        "regions": options.regions or None,
        "polarity": None if options.polarity == "both" else options.polarity,
        "photo_colors": options.photo_colors or None,
        "top_regions": options.top_regions,
        "baselines": options.baselines or None,
    }
    return {
        "parameters": {name: options.parameters[name] for name in sorted(options.parameters)},
        "drawn": {**drawn, **{name: value for name, value in later.items() if value is not None}},
    }


def _is_gone(outcome: object) -> bool:
    return getattr(getattr(outcome, "code", None), "name", None) == "UNAVAILABLE"


def _first(values: Any, *, endless: bool = False) -> Any:
    """The value for the one image, as Python's own type; None where it is unknown or not finite.

    With `endless`, infinity is told: of an error it says something.
    """
    if values is None or len(values) == 0:
        return None
    value = values[0].item() if isinstance(values[0], np.generic) else values[0]
    known = not isinstance(value, float) or math.isfinite(value) or (endless and value == math.inf)
    return value if known else None
