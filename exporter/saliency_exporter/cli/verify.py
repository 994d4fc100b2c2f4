"""`saliency-exporter verify`."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from saliency_client.cli.sections import command, option
from saliency_client.cli.text import one_line, printable, styled
from saliency_exporter.cli.params import DIRECTORY
from saliency_exporter.cli.verifier import FROM_STDIN

if TYPE_CHECKING:
    from saliency_exporter.version.verify import Row


@command("verify", short_help="Check an exported version as a server loads it.")
@click.argument("version_dir", type=DIRECTORY)
@option(
    "--xla-cache",
    type=DIRECTORY,
    section="Compilation",
    help="Keep compiled programs in this directory, so that the next process does not compile again.",
)
@option(
    "--json",
    "as_json",
    is_flag=True,
    section="Output",
    help="Print the report as JSON to stdout, and the table to stderr.",
)
def verify(version_dir: Path, as_json: bool, xla_cache: Path | None) -> int:
    """Check VERSION_DIR: load it as TensorFlow Serving does and run every signature.

    Compares every answer with that of the uncompiled model at export, and exits with 1 if one is not within
    tolerance. The table has a row for each signature and batch size: the times of the first
    call and of the next, the largest difference of a score, and the norm of a map's difference over the
    map's norm.

    \b
    saliency-exporter verify models/lite0/1
    """
    from saliency_exporter.runtime.memory import enough_memory
    from saliency_exporter.runtime.quiet import import_tensorflow
    from saliency_exporter.version.manifest import read_manifest

    if str(version_dir) == FROM_STDIN:
        # Who started this process ends it, and says so.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        read_manifest(version_dir)
    with enough_memory("end what runs beside it"):
        import_tensorflow()
        from saliency_exporter.runtime.xla_cache import use_xla_cache, vouch_for_entries
        from saliency_exporter.version.verify import verify as verify_version

        if str(version_dir) == FROM_STDIN:
            line = sys.stdin.readline().rstrip("\n")
            if not line:
                # Whoever started it has nothing to verify.
                return 0
            version_dir = Path(line)
        cache = None if xla_cache is None else use_xla_cache(xla_cache)
        manifest = read_manifest(version_dir)
        started = time.monotonic()
        report = verify_version(
            version_dir,
            progress=_table(
                [manifest.predictions, *manifest.by_signature], sys.stderr if as_json else sys.stdout
            ),
            step=lambda words: click.echo(words, err=True),
        )
        if cache is not None:
            vouch_for_entries(cache)
    for problem in report.problems:
        click.echo(f"{styled('differs:', 'red', sys.stderr)} {one_line(problem)}", err=True)
    if as_json:
        import msgspec

        click.echo(json.dumps({**msgspec.to_builtins(report.to_manifest()), "problems": report.problems}))
    elif not report.problems:
        click.echo(
            f"every answer is within tolerance of the reference: {len(report.rows)} calls and "
            f"{report.warmup_records} warmup records in {time.monotonic() - started:.0f} s"
        )
    return 1 if report.problems else 0


def _table(signatures: Iterable[str], stream: TextIO) -> Callable[[Row], None]:
    """What prints the rows of a verification as they come.

    Args:
        signatures: every name that a row may have.
        stream: where to.
    """
    from rich.table import Table
    from rich.text import Text

    from saliency_client.cli.console import console

    widths = (max(map(len, map(printable, ["signature", *signatures]))), 5, 11, 11, 8, 8)
    printer = console(stream)
    head = ["signature", "batch", "first call", "next call", "score", "map"]

    def line(cells: Iterable[str], style: str, outcome: Text) -> None:
        table = Table.grid(padding=(0, 2, 0, 0))
        for index, width in enumerate(widths):
            table.add_column(width=width, justify="right" if index else "left", no_wrap=True)
        table.add_column(overflow="fold")
        table.add_row(*(Text(cell, style) for cell in cells), outcome)
        printer.print(table)

    def row(row: Row) -> None:
        if head:
            line(head, "bold", Text())
            head.clear()
        outcome = Text(one_line(row.problem), "red") if row.problem else Text("ok", "green")
        numbers = f"{row.first_ms:.0f} ms", f"{row.ms:.1f} ms", f"{row.score_error:.1g}"
        cells = printable(row.signature), str(row.batch_size), *numbers, f"{row.gradient_error:.1g}"
        line(cells, "", outcome)

    return row
