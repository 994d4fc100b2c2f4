"""Both command lines stand on one foundation: errors, hints, exit codes, options in sections, completion."""

from __future__ import annotations

import io
import re
import sys

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import saliency_client.cli
import saliency_exporter.cli
from saliency_client.render import colormap_name
from saliency_exporter.cli.steps import Steps

PROGRAMS = {"saliency-client": saliency_client.cli.main, "saliency-exporter": saliency_exporter.cli.main}
COMMANDS = [
    (program, name) for program, main in PROGRAMS.items() for name in main.list_commands(click.Context(main))
]
SECTIONS = ["Model", "Input", "Methods", "Compilation", "Output"]


def found(program: str, name: str) -> click.Command:
    command = PROGRAMS[program].get_command(click.Context(PROGRAMS[program]), name)
    assert command is not None
    return command


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["complet"], "No such command 'complet'.", "did you mean completion?"),
        (["draw"], "No such command 'draw'.", "the commands are "),
        (
            ["completion", "--color"],
            "No such option '--color'.",
            "`PROGRAM completion --help` lists the options",
        ),
        (["completion"], "Missing argument", "`PROGRAM completion --help` lists the options"),
        (["completion", "tcsh"], "Invalid value for", "`PROGRAM completion --help` lists the options"),
    ],
)
def test_wrong_usage_is_an_error_a_hint_and_exit_code_2(program, arguments, error, hint) -> None:
    done = CliRunner().invoke(PROGRAMS[program], arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    # Releases of click set the name of an option in quotes or not.
    assert first.replace("option --color", "option '--color'").startswith(f"error: {error}")
    assert second.startswith(f"hint: {hint.replace('PROGRAM', program)}")


@pytest.mark.parametrize(("program", "name"), COMMANDS)
def test_a_command_shows_how_it_is_used_and_every_option_what_it_does(program: str, name: str) -> None:
    command = found(program, name)
    assert f"{program} {name}" in (command.help or "")
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name
    page = CliRunner().invoke(PROGRAMS[program], [name, "--help"]).output
    assert "tcsh" not in page
    assert len(re.findall(r"^  -h, --help", page, re.MULTILINE)) == 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_exit_codes_and_the_debug_switch_are_on_the_help_page(program: str) -> None:
    page = CliRunner().invoke(PROGRAMS[program], ["--help"]).output
    assert re.findall(r"^    +(\d+)  ", page, re.MULTILINE) == ["0", "1", "2", "130"]
    assert "SALIENCY_DEBUG=1 shows" in page


def test_the_options_of_export_stand_in_sections() -> None:
    page = CliRunner().invoke(saliency_exporter.cli.main, ["export", "--help"]).output
    assert re.findall(r"^(\w+):$", page, re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("program", PROGRAMS)
# Of bash click asks the version, in a process.
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_shell_can_complete(program: str, shell: str) -> None:
    done = CliRunner().invoke(PROGRAMS[program], ["completion", shell])
    assert done.exit_code == 0
    variable = f"_{program}_COMPLETE".replace("-", "_").upper()
    assert variable in done.output
    asked = {variable: f"{shell}_complete", "COMP_WORDS": f"{program} compl", "COMP_CWORD": "1"}
    if shell == "fish":
        asked["COMP_CWORD"] = "compl"
    answer = CliRunner().invoke(PROGRAMS[program], [], env=asked, prog_name=program)
    assert "completion" in answer.output


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_help_of_completion_makes_the_folder_before_it_writes_into_it(program: str) -> None:
    page = CliRunner().invoke(PROGRAMS[program], ["completion", "--help"]).output
    made: set[str] = set()
    written = []
    for line in map(str.strip, page.splitlines()):
        made |= {line.removeprefix("mkdir -p ")} if line.startswith("mkdir -p ") else set()
        if " > " in line:
            folder, _, file = line.partition(" > ")[2].rpartition("/")
            assert folder in made, line
            written.append(file)
    assert len(written) == 3


def completions(*words: str) -> list[tuple[str, str]]:
    """(kind, word) of what `saliency-client` completes the last of these words with."""
    *before, incomplete = words
    shell = ShellComplete(PROGRAMS["saliency-client"], {}, "saliency-client", "_SALIENCY_CLIENT_COMPLETE")
    return [(item.type, item.value) for item in shell.get_completions(before, incomplete)]


@pytest.mark.parametrize(
    "words",
    [
        ("explain", "ca"),
        ("explain", "cat.jpg", "do"),
        ("explain", "cat.jpg", "-o", "ma"),
        ("explain", "cat.jpg", "--out", "ma"),
        ("predict", "ca"),
        ("predict", "cat.jpg", "do"),
        ("bench", "ca"),
        ("explain", "cat.jpg", "--labels", "na"),
        ("status", "--ca", "ce"),
    ],
    ids=" ".join,
)
def test_a_shell_completes_files_where_a_path_is_typed(words: tuple[str, ...]) -> None:
    assert completions(*words) == [("file", words[-1])]


def test_a_shell_completes_a_folder_for_a_local_version() -> None:
    assert completions("explain", "--local", "mo") == [("dir", "mo")]


def test_a_shell_completes_names_of_color_maps_that_the_option_takes() -> None:
    found = completions("explain", "cat.jpg", "--colormap", "virid")
    assert found == [("plain", "viridis"), ("plain", "viridis_r")]
    names = [name for _, name in completions("explain", "--colormap", "co")]
    assert "coolwarm" in names, "which several catalogs have"
    for name in names:
        assert ":" not in name
        assert colormap_name(name).endswith(name)


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def steps(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    for name in ("NO_COLOR", "TERM", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", stream)
    with Steps() as say:
        say("one")
        say("two\x1b[31m")
        say.leave_line()
        print("between", file=sys.stderr)
        say("three")
    return stream.getvalue()


def test_on_a_pipe_a_step_is_a_plain_line_with_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = steps(io.StringIO(), monkeypatch).splitlines()
    assert [re.sub(r"\d+\.\d s", "s", line) for line in lines] == [
        "one … s",
        "two\\x1b[31m …",
        "between",
        "three … s",
    ]


def test_on_a_terminal_a_step_has_a_spinner_and_colors_where_they_are_wanted(monkeypatch) -> None:
    colors = r"\x1b\[[\d;]*m"
    shown = steps(Terminal(), monkeypatch, TERM="xterm-256color")
    assert re.search(colors, shown)
    plain = steps(Terminal(), monkeypatch, TERM="xterm-256color", NO_COLOR="1")
    assert not re.search(colors, plain)
    for text in (shown, plain):
        lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
        for line in (r"one \d\.\d s", r"two\\x1b\[31m …", "between", r"three \d\.\d s"):
            assert re.search(line, lines), line


def test_a_step_that_fails_leaves_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)

    def fail() -> None:
        with Steps() as say:
            say("one")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert stream.getvalue() == "one …\n"


@pytest.mark.parametrize(
    ("words", "incomplete", "offered"),
    [
        (["export"], "my-mo", [("file", "my-mo")]),
        (["serve"], "m=mod", [("file", "m=mod")]),
        (["export", "m.keras", "models/m", "--methods"], "gradients,sm", [("plain", "gradients,smooth")]),
    ],
)
def test_a_shell_completes_models_and_names_of_methods(words, incomplete, offered):
    completer = ShellComplete(
        PROGRAMS["saliency-exporter"], {}, "saliency-exporter", "_SALIENCY_EXPORTER_COMPLETE"
    )
    items = completer.get_completions(words, incomplete)
    assert [(item.type, item.value) for item in items] == offered
