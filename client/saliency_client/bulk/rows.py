"""What a row says of an explained image: its columns, and the values of one. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saliency_client._bulk import ItemResult
from saliency_client._errors import OptionError, SaliencyError
from saliency_client._signatures import Signature
from saliency_client.bulk.stored_maps import MapFormat, check_map_format, store_map

Row = dict[str, Any]

_OF_THE_CLASS: Mapping[str, str] = {
    "class_index": "int32",
    "label": "string",
    "probability": "float32",
    "score": "float32",
}
_OF_THE_MAP: Mapping[str, str] = {"map": "binary", "map_scale": "float32", "map_shape": "list<int32>"}
_OF_THE_WORK: Mapping[str, str] = {"error": "string", "version": "int64"}


@dataclass(frozen=True)
class Columns:
    """The columns of an explanation.

    Attributes:
        map: the output that is stored as the map; None: no map.
        map_format: how.
        numbers: outputs of one number for an image, float32, that are stored beside the class's own.
    """

    map: str | None = "saliency"
    map_format: MapFormat = "float16"
    numbers: tuple[str, ...] = ("relative_error",)

    def __post_init__(self) -> None:
        check_map_format(self.map_format)
        taken = {*_OF_THE_CLASS, *_OF_THE_MAP, *_OF_THE_WORK}
        if clash := taken.intersection(self.numbers):
            raise OptionError(f"numbers names {', '.join(sorted(clash))}, which every row has")

    @property
    def kinds(self) -> dict[str, str]:
        """The type of each column, as Arrow calls it, in order."""
        numbers = dict.fromkeys(self.numbers, "float32")
        of_the_map = _OF_THE_MAP if self.map is not None else {}
        return {**_OF_THE_CLASS, **numbers, **_OF_THE_WORK, **of_the_map}

    def check(self, signature: Signature) -> None:
        """Raise OptionError where a method cannot fill these columns."""
        spec = signature.outputs.get(self.map) if self.map is not None else None
        if self.map is not None and (spec is None or (spec.rank or 0) < 3):
            maps = [name for name, one in signature.outputs.items() if (one.rank or 0) >= 3]
            raise OptionError(
                f"{signature.name} has no map {self.map!r}", hint=f"its maps are {', '.join(maps) or 'none'}"
            )
        if spec is not None and self.map != "saliency" and self.map_format != "float16":
            raise OptionError(
                f"map {self.map!r} may be below 0, and {self.map_format} keeps no signs",
                hint="map_format 'float16' keeps them",
            )

    def row(self, result: ItemResult) -> Row:
        """The values of one image; those that are not known are None.

        Raises:
            SaliencyError: the explanation cannot be stored as asked; it is not the image's fault.
        """
        row: Row = dict.fromkeys(self.kinds)
        if result.explanation is None:
            row["error"] = described(result.error)
            return row
        explanation = result.explanation
        row["version"] = explanation.version
        for name in (*_OF_THE_CLASS, *self.numbers):
            if name in explanation.outputs:
                value = explanation[name][0]
                row[name] = value if isinstance(value, str) else value.item()
        if self.map is not None:
            values = np.asarray(explanation[self.map][0], np.float32)
            if not np.isfinite(values).all():
                row["error"] = f"{self.map} holds NaN or infinity"
                return row
            row["map"], row["map_scale"] = store_map(values, self.map_format)
            row["map_shape"] = list(values.shape)
        return row

    def arrays(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Rows as arrays [B] by column, for engines that hold columns: unknown numbers are NaN, or −1."""
        return {name: _array(kind, [row[name] for row in rows]) for name, kind in self.kinds.items()}


def all_numbers(signature: Signature) -> tuple[str, ...]:
    """The outputs of a method that are one number for an image, without those of the class."""
    return tuple(
        name
        for name, spec in signature.outputs.items()
        if spec.rank == 1 and spec.dtype != "string" and name not in _OF_THE_CLASS
    )


def described(error: SaliencyError | None) -> str:
    """An error as a column holds it: a sentence, on one line."""
    return " ".join(str(error).split()) if error is not None else "there is no result"


def _array(kind: str, values: Iterable[Any]) -> Any:
    given = list(values)
    if kind == "float32":
        return np.asarray([np.nan if value is None else value for value in given], np.float32)
    if kind in ("int32", "int64"):
        return np.asarray([-1 if value is None else value for value in given], kind)
    if kind == "list<int32>":
        longest = max((len(value) for value in given if value is not None), default=2)
        return np.asarray([[0] * longest if value is None else value for value in given], np.int32).reshape(
            len(given), longest
        )
    array = np.empty(len(given), object)
    array[:] = given
    return array
