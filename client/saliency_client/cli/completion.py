"""The command `completion` of both command lines."""

from __future__ import annotations

import click

from saliency_client.cli.errors import CommandError
from saliency_client.cli.sections import command

_HELP = """Print a script that completes commands and options in a shell.

\b
{program} completion bash > ~/.local/share/bash-completion/completions/{program}
{program} completion zsh > ~/.zfunc/_{program}
{program} completion fish > ~/.config/fish/completions/{program}.fish
"""


def completion_command(program: str) -> click.Command:
    """The command for a program of this name, whose group it is in."""

    @command(
        "completion", short_help="Print a shell's completion script.", help=_HELP.format(program=program)
    )
    @click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
    @click.pass_context
    def completion(context: click.Context, shell: str) -> None:
        from click.shell_completion import get_completion_class

        kind = get_completion_class(shell)
        if kind is None:
            raise CommandError(
                f"this version of click has no completion for {shell}", hint="pip install -U click"
            )
        variable = f"_{program}_COMPLETE".replace("-", "_").upper()
        click.echo(kind(context.find_root().command, {}, program, variable).source())

    made: click.Command = completion
    return made


completion = completion_command("saliency-client")
