"""The command `completion` of both command lines, and what a shell completes words with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from saliency_client.cli.errors import CommandError
from saliency_client.cli.sections import command

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_HELP = """Print a script that completes commands and options in a shell.

\b
mkdir -p ~/.local/share/bash-completion/completions
{program} completion bash > ~/.local/share/bash-completion/completions/{program}

\b
mkdir -p ~/.zfunc
{program} completion zsh > ~/.zfunc/_{program}

\b
mkdir -p ~/.config/fish/completions
{program} completion fish > ~/.config/fish/completions/{program}.fish
"""


def complete_files(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Files and folders, for a path that is declared as a string, since it may be `-` or a pattern.

    For `shell_complete` of an argument or an option; the shell itself looks at the files.
    """
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def complete_color_maps(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The short names of color maps, and those of the reversed ones, that begin with what is typed."""
    from cmap import Catalog

    # Of a full name, bash takes the colon for the end of a word.
    names = {name.rpartition(":")[2] for name in Catalog().unique_keys()}
    both = (each for name in names for each in (name, f"{name}_r"))
    return sorted(name for name in both if name.startswith(incomplete))


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
