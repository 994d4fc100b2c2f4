"""`saliency-exporter inspect`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from saliency_client.cli.sections import command, option
from saliency_client.cli.text import one_line, printable_json
from saliency_exporter.cli.params import DIRECTORY


@command("inspect", short_help="Show what an exported version holds.")
@click.argument("version_dir", type=DIRECTORY)
@option(
    "--json",
    "as_json",
    is_flag=True,
    section="Output",
    help="Print the whole manifest as JSON, with the outcome of `sanity`.",
)
def inspect_version(version_dir: Path, as_json: bool) -> None:
    """Show what VERSION_DIR holds: model, input, preprocessing, activations, signatures.

    \b
    saliency-exporter inspect models/lite0/1
    saliency-exporter inspect models/lite0/1 --json
    """
    from saliency_exporter.evaluation.card import read_card, sentence
    from saliency_exporter.version.inspection import summary
    from saliency_exporter.version.manifest import read_manifest

    manifest = read_manifest(version_dir)
    card = read_card(version_dir / "assets.extra")
    if as_json:
        of_test = {} if card is None else {"sanity": card.to_json()}
        click.echo(printable_json({**manifest.to_json(), **of_test}))
        return
    from rich.table import Table
    from rich.text import Text

    from saliency_client.cli.console import console

    tested = [] if card is None else [("sanity", f"{name} {sentence(card, name)}") for name in card.methods]
    lines, printer = summary(version_dir, manifest) + tested, console(sys.stdout)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        # A table for each: rich would pad all lines of one to the width of the longest.
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="bold", width=width)
        table.add_column(overflow="fold")
        table.add_row(name, Text(one_line(value)))
        printer.print(table)
