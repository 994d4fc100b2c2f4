"""The command line: `saliency-client`. Each command is a module, and imports what is heavy when it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from saliency_client.cli.errors import UsageError, debugging, run

_COMMANDS = {
    "explain": "explain",
    "predict": "predict",
    "status": "status",
    "signatures": "signatures",
    "bench": "bench",
    "completion": "completion",
}


class _Application(click.Group):
    """A group whose errors are two lines and an exit code, and whose commands are imported when needed."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command = getattr(import_module(f"saliency_client.cli.{_COMMANDS[name]}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            like = get_close_matches(name, _COMMANDS, n=1)
            raise UsageError(
                f"No such command {name!r}.",
                hint=f"did you mean {like[0]}?" if like else f"the commands are {', '.join(_COMMANDS)}",
            )
        return super().resolve_command(context, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        def invoke() -> Any:
            return super(_Application, self).main(args, prog_name, complete_var, False, **extra)

        # gRPC writes lines of its own to standard error; what they say is in the errors, in a sentence.
        if not debugging():
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        return run(invoke) if standalone_mode else invoke()


def _print_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from saliency_client.cli.version import release

        click.echo(f"saliency-client {release()}")
        context.exit()


@click.group(
    cls=_Application,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
def main() -> None:
    """Saliency maps and predictions from a model that TensorFlow Serving serves.

    Every command takes the server and the model from --server and --model, or from SALIENCY_SERVER and
    SALIENCY_MODEL.

    \b
    saliency-client status --server localhost:8500 --model efficientnet-lite0 --wait 60
    saliency-client explain cat.jpg --server localhost:8500 --model efficientnet-lite0

    \b
    Exit codes:
      0        done
      1        failed; of a batch: some of it
      2        wrong usage
      64 + n   the server or the way to it said no: gRPC code n, as 69 NOT_FOUND, 78 UNAVAILABLE
      130      interrupted
    SALIENCY_DEBUG=1 shows tracebacks.
    """
