"""pyarrow, where it is needed: its import takes a fifth of a second."""

from __future__ import annotations

from typing import Any

from saliency_client._errors import OptionError


def parquet() -> Any:
    """The module `pyarrow.parquet`.

    Raises:
        OptionError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise OptionError(
            f"pyarrow cannot be imported: {error}", hint="pip install 'saliency-serving[bulk]'"
        ) from error
    return pyarrow.parquet


def schema(kinds: dict[str, str], metadata: dict[str, str] | None = None) -> Any:
    """A schema of named columns, each of a type as Arrow writes it."""
    import pyarrow

    types = {
        "string": pyarrow.string(),
        "binary": pyarrow.binary(),
        "int32": pyarrow.int32(),
        "int64": pyarrow.int64(),
        "float32": pyarrow.float32(),
        "list<int32>": pyarrow.list_(pyarrow.int32()),
    }
    return pyarrow.schema([(name, types[kind]) for name, kind in kinds.items()], metadata)
