"""One step of a pipeline, for any engine: images in; class, numbers and map out."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saliency_client._errors import OptionError
from saliency_client.bulk.asking import Asking
from saliency_client.bulk.decoding import Decoding, Image, decode_all
from saliency_client.bulk.rows import Columns, Row, all_numbers
from saliency_client.bulk.stored_maps import MapFormat

if TYPE_CHECKING:
    from saliency_client.images import Resize

_LOCK = threading.Lock()


@dataclass(frozen=True)
class ExplainBatch:
    """Explains batches of images: made where a pipeline is described, used in its workers.

    It holds options alone, so it can be pickled; it connects at its first batch in each process, and one
    object may be used from several threads. Encoded pictures are decoded in the worker. An image that cannot
    be read or is refused gives a row with its `error`; what is not an image's fault, as that the server
    stayed away for `patience` seconds, is raised, so that the engine tries the batch again.

    Attributes:
        target: as for `SaliencyClient`: 'host:port', or several.
        model: the model's name on the server.
        method: any that the model offers.
        parameters: of the method, by name; `class_index` too. Missing ones are the model's defaults.
        map: the output that is stored as the map: 'saliency', 'cam', 'gradients', …; None: none.
        map_format: 'float16', 'uint8' or 'png'; `read_map` reads each.
        numbers: outputs of one number for an image, which get columns of their own; None: all of the method,
            which is known at the first batch.
        image_column: where `__call__` finds the images: encoded bytes, or arrays [H, W, C].
        resize: as for `saliency_client.images.load_image`; `max_pixels` and `draft` too.
        batch_size: images in a request, at most.
        timeout: seconds for each image of a request, retries included; None: no limit.
        patience: seconds for which a server may be away, or loading.
        version: that is asked; None: the latest.
        token_file: a file with a bearer token, read for every request.
        options: others of `SaliencyClient`, as `tls` and `label`; each has to be picklable.

    Raises:
        OptionError: an option cannot work.

    Example:
        >>> import pickle
        >>> from saliency_client.bulk import ExplainBatch
        >>> step = ExplainBatch("localhost:8500", "efficientnet-lite0", method="smooth")
        >>> step == pickle.loads(pickle.dumps(step))
        True
        >>> rows = step.rows([images[0], b"no picture"])
        >>> rows[0]["label"], rows[0]["map_shape"], rows[1]["error"]
        ('class 0', [224, 224], 'the file is not an image')
    """

    target: str | tuple[str, ...]
    model: str
    method: str = "gradients"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    map: str | None = "saliency"
    map_format: MapFormat = "float16"
    numbers: tuple[str, ...] | None = ("relative_error",)
    image_column: str = "image"
    resize: Resize = "crop"
    max_pixels: int | None = None
    draft: bool = False
    batch_size: int = 8
    timeout: float | None = 60.0
    patience: float = 300.0
    version: int | None = None
    token_file: Path | None = None
    # A token may be in it.
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in ("target", "numbers"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        if self.batch_size < 1:
            raise OptionError(f"batch_size is {self.batch_size}; it must be 1 or above")
        _ = self.columns

    @property
    def columns(self) -> Columns:
        """The columns of a row, as far as they are known."""
        return Columns(self.map, self.map_format, self.numbers or ())

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Explain a batch of columns.

        Args:
            batch: arrays [B] or lists by name. `image_column` holds the images; the rest is handed through.

        Returns:
            The other columns, and those of the explanation as arrays [B]: class_index int32 (−1 unknown),
            label, probability, score and numbers float32 (NaN unknown), error, version int64, map (bytes),
            map_scale float32, map_shape int32 [B, 2] (or [B, 3]).

        Raises:
            OptionError: there is no column of images.
            SaliencyError: what is not an image's fault.
        """
        self.check_columns(batch)
        rows = self.rows(list(batch[self.image_column]))
        others = {name: values for name, values in batch.items() if name != self.image_column}
        columns = self._connected().columns.arrays(rows)
        _check_clash(others, columns)
        return {**others, **columns}

    def check_columns(self, names: Collection[str]) -> None:
        """Raise OptionError where a batch with these columns cannot be explained."""
        if self.image_column not in names:
            raise OptionError(
                f"the batch has no column {self.image_column!r}; it has {', '.join(map(str, names))}",
                hint="image_column names the column of the images",
            )
        _check_clash([name for name in names if name != self.image_column], self.columns.kinds)

    def declared_kinds(self) -> dict[str, str]:
        """The type of each column, as Arrow calls it, for engines that want it before a server is asked.

        Raises:
            OptionError: `numbers` is None: which there are is the model's to say.
        """
        if self.numbers is None:
            raise OptionError(
                "numbers is None, and an engine's columns are declared before the model is asked for its own",
                hint="name them, as numbers=('relative_error', 'samples_used')",
            )
        return self.columns.kinds

    def rows(self, images: Sequence[Image]) -> list[Row]:
        """Explain images, one dictionary each, of plain Python values.

        Args:
            images: encoded pictures or .npy files (bytes), or arrays [H, W, C] as the model takes them.

        Raises:
            SaliencyError: what is not an image's fault.
        """
        if not images:
            return []
        return self._connected().explained(images)

    def client_options(self) -> dict[str, Any]:
        """The arguments of a client, of either kind."""
        return {
            "target": list(self.target) if isinstance(self.target, tuple) else self.target,
            "model": self.model,
            "version": self.version,
            "token": None if self.token_file is None else partial(_token, self.token_file),
            **self.options,
        }

    def close(self) -> None:
        """Close this process's connection; a later batch connects anew."""
        with _LOCK:
            connected, self.__dict__["_connection"] = self.__dict__.get("_connection"), None
        if connected is not None and connected.pid == os.getpid():
            connected.client.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_connection"}

    def _connected(self) -> _Connected:
        """This process's connection; a process that was forked makes its own."""
        with _LOCK:
            connected: _Connected | None = self.__dict__.get("_connection")
            if connected is None or connected.pid != os.getpid():
                connected = self.__dict__["_connection"] = _Connected(self)
            return connected


def _check_clash(others: Collection[str], columns: Collection[str]) -> None:
    if clash := set(columns).intersection(others):
        raise OptionError(
            f"the batch has columns that the explanation would replace: {', '.join(sorted(clash))}",
            hint="rename them",
        )


def _token(path: Path) -> str:
    # Read for every request: whoever rotates a token rewrites its file.
    return Path(path).read_text().strip()


class _Connected:
    """A client of one process, and what its model takes, which is asked at the first batch."""

    def __init__(self, step: ExplainBatch) -> None:
        from saliency_client import SaliencyClient

        self.pid = os.getpid()
        self.columns = step.columns
        self.client = SaliencyClient(**step.client_options())
        self._step = step
        self._asking = asking_of(step)
        self._decoding: Decoding | None = None

    def explained(self, images: Sequence[Image]) -> list[Row]:
        run = self.client._converse
        if self._decoding is None:
            signature = run(self._asking.signature)
            step = self._step
            if step.numbers is None:
                self.columns = replace(self.columns, numbers=all_numbers(signature))
            self.columns.check(signature)
            self._decoding = Decoding.of(
                signature, resize=step.resize, max_pixels=step.max_pixels, draft=step.draft
            )
        decoded = decode_all(self._decoding, images)
        results = run(lambda calls: self._asking.explain(calls, decoded))
        return [self.columns.row(result) for result in results]


def asking_of(step: ExplainBatch) -> Asking:
    """What the server is asked, by the options of a step."""
    large = step.map not in (None, "saliency")
    return Asking(
        step.method,
        step.parameters,
        (step.map,) if large and step.map is not None else None,
        step.batch_size,
        step.timeout,
        step.patience,
        step.version,
    )
