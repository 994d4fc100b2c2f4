"""`saliency-client status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saliency_client.cli.connection import Connection
from saliency_client.cli.options import connection_options, output_options
from saliency_client.cli.param_types import SECONDS
from saliency_client.cli.printer import Printer
from saliency_client.cli.sections import command, option

if TYPE_CHECKING:
    from rich.table import Table

    from saliency_client import VersionStatus


@command(short_help="Show which versions a server has, and wait for one.")
@option(
    "--wait",
    type=SECONDS,
    metavar="SECONDS",
    help="Wait until the model answers, even if the server is not up yet.",
)
@connection_options
@output_options
def status(connection: Connection, printer: Printer, *, wait: float | None) -> int:
    """Show which versions of the model the server has, and whether one answers.

    Exits with 0 if a version is AVAILABLE, with 1 if none is, and with 64 + n, n being the gRPC code, if the
    server or the way to it said no.

    \b
    saliency-client status
    saliency-client status --wait 120 --quiet && saliency-client explain cat.jpg

    \b
    --json prints one line: model, available, and versions, each with version, state, error_code, error.
    """
    from saliency_client.cli.connection import connect
    from saliency_client.cli.text import printable

    with connect(connection) as client:
        if wait is not None:
            with printer.waiting(f"waiting for {printable(str(connection.model))}"):
                client.wait_ready(wait)
        model, versions = client.model, client.status()
    available = any(version.available for version in versions)
    record = {
        "model": model,
        "available": available,
        "versions": [
            {
                "version": version.version,
                "state": version.state,
                "error_code": version.error_code,
                "error": version.error_message or None,
            }
            for version in versions
        ],
    }
    printer.result(record, lambda: _table(versions), ["AVAILABLE" if available else "NOT AVAILABLE"])
    return 0 if available else 1


def _table(versions: tuple[VersionStatus, ...]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from saliency_client.cli.text import one_line

    styles = {
        "AVAILABLE": "green",
        "LOADING": "yellow",
        "START": "yellow",
        "END": "red",
        "UNLOADING": "yellow",
    }
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("version", justify="right")
    table.add_column("state")
    table.add_column("error" if any(version.error_message for version in versions) else "", overflow="fold")
    for version in versions:
        state = Text(version.state, styles.get(version.state, ""))
        table.add_row(str(version.version), state, one_line(version.error_message))
    return table
