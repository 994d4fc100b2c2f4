"""`saliency-client signatures`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from saliency_client.cli.connection import Connection
from saliency_client.cli.options import connection_options, local_option, output_options
from saliency_client.cli.printer import Printer
from saliency_client.cli.sections import command, option

if TYPE_CHECKING:
    from rich.table import Table

    from saliency_client import Signature, TensorSpec


@command(short_help="Show what a model takes and returns.")
@connection_options
@local_option
@output_options
@option(
    "--long",
    "in_full",
    is_flag=True,
    section="Output",
    help="Print a line for each input and output, with its type.",
)
def signatures(connection: Connection, in_full: bool, printer: Printer) -> None:
    """Show what the model takes and returns: each signature's inputs, defaults, bounds and outputs.

    \b
    saliency-client signatures
    saliency-client signatures --long
    saliency-client signatures --json | python3 -m json.tool

    \b
    --json prints one line: model, methods, and signatures by name, each with inputs and outputs by name;
    those have dtype, shape (null for a free size, and as a whole for a free rank), default, and least and
    greatest, which are null where there is no bound, or the model does not tell it.

    \b
    parameter_defaults and parameter_bounds are left out: what they tell is shown with each input.
    """
    from saliency_client._signatures import Metadata, is_internal
    from saliency_client.cli.connection import connect

    with connect(connection) as client:
        model, every = client.model, client.signatures()
        metadata = Metadata(0, every)
        tables = [metadata.defaults_table, metadata.bounds_table]
        found = {
            name: one
            for name, one in every.items()
            if not is_internal(name) and not any(one is table for table in tables)
        }
        methods = [signature.method for signature in found.values() if signature.method]
    record = {
        "model": model,
        "methods": methods,
        "signatures": {name: _record(signature) for name, signature in found.items()},
    }
    printer.result(record, lambda: _long(found) if in_full else _short(found), list(found))


def _record(signature: Signature) -> dict[str, Any]:
    def spec(one: TensorSpec) -> dict[str, Any]:
        return {"dtype": one.dtype, "shape": None if one.shape is None else list(one.shape)}

    return {
        "inputs": {
            name: {
                **spec(one),
                "default": default_of(signature, name),
                **dict(zip(("least", "greatest"), signature.bounds.get(name, (None, None)), strict=True)),
            }
            for name, one in signature.inputs.items()
        },
        "outputs": {name: spec(one) for name, one in signature.outputs.items()},
    }


def default_of(signature: Signature, name: str) -> Any:
    """A parameter's default as JSON's own types; None where it has none."""
    if name not in signature.defaults:
        return None
    value = signature.defaults[name]
    if value.dtype.kind == "f":
        # float32's 0.15 is 0.15000000596 as a Python float.
        return [float(str(one)) for one in value] if value.ndim else float(str(value[()]))
    if value.dtype == object:
        return [one.decode("utf-8", "replace") for one in value.ravel()]
    return value.tolist()


def _shown(default: Any) -> str:
    """A default in a cell of the table: of many values, how many and the ends."""
    if isinstance(default, list) and len(default) > 4:
        return f"{len(default)} values, {default[0]} … {default[-1]}"
    return "" if default is None else str(default)


def _range(signature: Signature, name: str) -> str:
    """A parameter's bounds in a cell of the table; nothing where there are none."""
    known = [
        None if bound is None else str(bound).removesuffix(".0")
        for bound in signature.bounds.get(name, (None, None))
    ]
    least, greatest = known
    if least is not None and greatest is not None:
        return f"[{least}, {greatest}]"
    return f"≥ {least}" if least is not None else f"≤ {greatest}" if greatest is not None else ""


def _short(found: Mapping[str, Signature]) -> Table:
    """Two lines for each signature: inputs with default and bounds, or else their type; names of outputs."""
    from rich.table import Table

    from saliency_client.cli.text import printable

    table = Table(box=None, pad_edge=False, show_header=False)
    for style in ("bold", "dim", ""):
        table.add_column(overflow="fold", style=style)
    for name, signature in found.items():
        # What has to be given comes first.
        inputs = sorted(signature.inputs.items(), key=lambda one: one[0] in signature.defaults)
        taken = [
            (f"{key}={_shown(default_of(signature, key))}" if key in signature.defaults else f"{key} {spec}")
            + (f" {bounds}" if (bounds := _range(signature, key)) else "")
            for key, spec in inputs
        ]
        table.add_row(printable(name), "in", printable(", ".join(taken)))
        table.add_row("", "out", printable(", ".join(signature.outputs)))
    return table


def _long(found: Mapping[str, Signature]) -> Table:
    """A line for each input and output."""
    from rich.table import Table

    from saliency_client.cli.text import printable

    table = Table(box=None, pad_edge=False, header_style="dim")
    for header in ("signature", "", "name", "type", "default", "bounds"):
        table.add_column(header, overflow="fold", no_wrap=header == "type")
    for name, signature in found.items():
        shown = printable(name)
        for kind, specs in (("in", signature.inputs), ("out", signature.outputs)):
            for key, spec in specs.items():
                default = default_of(signature, key) if kind == "in" else None
                bounds = _range(signature, key) if kind == "in" else ""
                table.add_row(shown, kind, printable(key), str(spec), printable(_shown(default)), bounds)
                shown = ""
        table.add_section()
    return table
