"""`saliency-client completion`."""

from __future__ import annotations

import click

from saliency_client.cli.errors import CommandError
from saliency_client.cli.sections import command

_PROGRAM = "saliency-client"


@command(short_help="Print a shell's completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes commands and options in a shell.

    \b
    saliency-client completion bash > ~/.local/share/bash-completion/completions/saliency-client
    saliency-client completion zsh > ~/.zfunc/_saliency-client
    saliency-client completion fish > ~/.config/fish/completions/saliency-client.fish
    """
    from click.shell_completion import get_completion_class

    from saliency_client.cli import main

    kind = get_completion_class(shell)
    if kind is None:
        raise CommandError(
            f"this version of click has no completion for {shell}", hint="pip install -U click"
        )
    variable = f"_{_PROGRAM}_COMPLETE".replace("-", "_").upper()
    click.echo(kind(main, {}, _PROGRAM, variable).source())
