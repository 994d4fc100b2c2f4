"""What both command lines are: a group of commands, each imported when it is used, with one kind of error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from saliency_client.cli.errors import UsageError, run
from saliency_client.cli.sections import CONTEXT


class Application(click.Group):
    """A group whose errors are two lines and an exit code, and whose commands are imported when needed.

    Args:
        homes: name of each command, in the order of the help page, to `module:attribute`.
        settings: of `click.Group`.
    """

    def __init__(self, *arguments: Any, homes: Mapping[str, str], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.homes = homes

    def list_commands(self, context: click.Context) -> list[str]:
        """The names, in the order of the help page."""
        return [*self.homes, *(name for name in super().list_commands(context) if name not in self.homes)]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if name not in self.homes:
            return super().get_command(context, name)
        module, _, attribute = self.homes[name].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, or suggest one that has a similar name."""
        name = args[0]
        names = self.list_commands(context)
        if name not in names and not name.startswith("-"):
            from difflib import get_close_matches

            like = get_close_matches(name, names, n=1)
            raise UsageError(
                f"No such command {name!r}.",
                hint=f"did you mean {like[0]}?" if like else f"the commands are {', '.join(names)}",
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
        """Run a command; in standalone mode, to an exit code."""
        if getattr(sys, "frozen", False):
            # Processes of a frozen program begin as the program itself does; this makes them what they are.
            from multiprocessing import freeze_support

            freeze_support()

        def invoke() -> Any:
            return super(Application, self).main(args, prog_name, complete_var, False, **extra)

        return run(invoke) if standalone_mode else invoke()

    def invoke(self, context: click.Context) -> Any:
        """Run a command; an interrupt is `click.Abort`."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt as interrupt:
            raise click.Abort() from interrupt


def application(
    program: str, homes: Mapping[str, str], *, kind: type[Application] = Application
) -> Callable[[Callable[[], None]], Application]:
    """A decorator that makes a command line of a function whose docstring is the help page.

    Args:
        program: what it is called.
        homes: name of each command, in the order of the help page, to `module:attribute`.
        kind: the class of the group.
    """

    def show_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value and not context.resilient_parsing:
            from saliency_client.cli.version import release

            click.echo(f"{program} {release()}")
            context.exit()

    def decorate(function: Callable[[], None]) -> Application:
        with_version = click.option(
            "--version",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=show_version,
            help="Show the version.",
        )(function)
        return click.group(program, cls=kind, homes=homes, context_settings=CONTEXT)(with_version)

    return decorate
