"""Help pages whose options stand in sections."""

from __future__ import annotations

import functools
from typing import Any

import click


class _Option(click.Option):
    def __init__(self, *arguments: Any, section: str = "Options", **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.section = section


class SectionedCommand(click.Command):
    """A command that lists its options by section, in the order in which sections first appear."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        options = [option for option in self.get_params(context) if isinstance(option, click.Option)]
        named = [option.section for option in options if isinstance(option, _Option)]
        # Click's own --help has no section.
        of_help = "Output" if "Output" in named else named[-1] if named else "Options"
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in options:
            line = option.get_help_record(context)
            if line is not None:
                sections.setdefault(getattr(option, "section", of_help), []).append(line)
        for name, lines in sections.items():
            with formatter.section(name):
                formatter.write_dl(lines)


option = functools.partial(click.option, cls=_Option)
# A command keeps the first --help that it made, so one that is called apart has to make the application's.
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
command = functools.partial(click.command, cls=SectionedCommand, context_settings=CONTEXT)
