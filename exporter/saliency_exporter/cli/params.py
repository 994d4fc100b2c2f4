"""The types of the commands' arguments and options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saliency_exporter.errors import ExportError
from saliency_exporter.methods.expressions import split
from saliency_exporter.methods.registry import ALL, checked_expressions, method_names

if TYPE_CHECKING:
    import numpy as np
    from click.shell_completion import CompletionItem

    # A generic class in newer releases alone.
    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType

PREPROCESSINGS = ("auto", "none", "pixels", "unit", "tf", "torch", "caffe")

DIRECTORY = click.Path(file_okay=False, path_type=Path)
PATH = click.Path(path_type=Path)


class _Numbers(_Type):
    """Whole numbers, as in 128,80,1; ascending and positive where that is asked for."""

    name = "N,N,…"

    def __init__(self, such_as: str, *, ascending: bool = False) -> None:
        self.such_as = such_as
        self.ascending = ascending

    def convert(self, value: Any, param: Any, context: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of {self.such_as}", param, context)
        if self.ascending and (numbers[0] < 1 or list(numbers) != sorted(set(numbers))):
            self.fail(f"{value!r} must be positive and ascending, such as 1,2,4", param, context)
        return numbers


class _Held(_Type):
    """An input's name and its constant, as in rate=0.5 or mask=mask.npy."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: Any, context: Any) -> tuple[str, np.ndarray]:
        if isinstance(value, tuple):
            return value
        name, separator, text = value.partition("=")
        if not (name and separator and text):
            self.fail(f"{value!r} is not of the form NAME=VALUE", param, context)
        import numpy as np

        if text.endswith(".npy"):
            try:
                return name, np.load(text, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                self.fail(f"{text} cannot be read as an array: {error}", param, context)
        if text in ("true", "false"):
            return name, np.array(text == "true")
        try:
            whole = int(text)
        except ValueError:
            pass
        else:
            for dtype in (np.int32, np.int64, np.uint64):
                if np.iinfo(dtype).min <= whole <= np.iinfo(dtype).max:
                    return name, np.array(whole, dtype)
            self.fail(f"{text} is not in the range of whole numbers, -2**63 to 2**64 - 1", param, context)
        try:
            return name, np.array(float(text), np.float64)
        except ValueError:
            self.fail(f"{text!r} is not a number, true, false or a .npy file", param, context)


class _Preprocessing(_Type):
    """The name of a preprocessing, or module:callable."""

    name = "NAME"

    def convert(self, value: Any, param: Any, context: Any) -> str:
        if value not in PREPROCESSINGS and ":" not in value:
            known = ", ".join(PREPROCESSINGS)
            self.fail(f"{value!r} is not one of {known} or module:callable", param, context)
        return str(value)


class _Methods(_Type):
    """Names of methods, separated by commas."""

    name = "NAME,…"

    def convert(self, value: Any, param: Any, context: Any) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in split(value))
        if ALL in names:
            if len(names) > 1:
                self.fail(f"{ALL} is every method; nothing stands beside it", param, context)
            return names
        try:
            checked_expressions(names)
        except ExportError as error:
            message = str(error)
            hint = str(error.hint)
            message += f" {hint[:1].upper()}{hint[1:]}" if message.endswith("?") else f"; {hint}"
            self.fail(message, param, context)
        return names

    def shell_complete(self, context: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        last = re.split(r"[,(]", incomplete)[-1]
        before = incomplete.removesuffix(last)
        names = method_names() if before else (ALL, *method_names())
        return [CompletionItem(f"{before}{name}") for name in names if name.startswith(last)]


class _Reference(_Type):
    """A Python object by its module and name."""

    name = "module:object"

    def convert(self, value: Any, param: Any, context: Any) -> str:
        if not all(value.partition(":")):
            self.fail(f"{value!r} is not of the form module:object", param, context)
        return str(value)


class _ChannelArguments(_Type):
    """Options of gRPC, as in grpc.max_connection_age_ms=60000."""

    name = "KEY=VALUE,…"

    def convert(self, value: Any, param: Any, context: Any) -> dict[str, int | str]:
        if isinstance(value, dict):
            return value
        arguments: dict[str, int | str] = {}
        for argument in filter(None, value.split(",")):
            key, separator, text = argument.partition("=")
            if not (key and separator):
                self.fail(f"{argument!r} is not of the form KEY=VALUE", param, context)
            try:
                arguments[key] = int(text)
            except ValueError:
                arguments[key] = text
        return arguments


NUMBERS = _Numbers("numbers such as 1,2,4", ascending=True)
SIZES = _Numbers("sizes such as 128,80")
HELD, PREPROCESSING, METHODS = _Held(), _Preprocessing(), _Methods()
REFERENCE, CHANNEL_ARGUMENTS = _Reference(), _ChannelArguments()
