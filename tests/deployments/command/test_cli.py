"""What all commands have in common: help, mistakes, a pipe that is closed, Ctrl-C."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.command import cli, plan
from deployments.options import OptionParser
from model.config import ConfigError


def parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """It, and those of its parts."""
    parts = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(inner for action in parts for part in action.choices.values() for inner in parsers(part))]


@pytest.fixture(params=cli.COMMANDS)
def every_parser(request: pytest.FixtureRequest) -> list[argparse.ArgumentParser]:
    """Of one command."""
    found = parsers(cli.COMMANDS[request.param].module().parser())
    assert found[0].prog == f"starcoder {request.param}"
    return found


def test_the_help_names_every_command_by_its_subject(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert out[: len(out) // 4] * 4 == out
    for subject, commands in cli.SUBJECTS.items():
        part = out.partition(f"\n{subject}:\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in part.splitlines()] == list(commands)


def test_every_help_is_for_people(every_parser: list[argparse.ArgumentParser]) -> None:
    for parser in every_parser:
        assert isinstance(parser, OptionParser)
        help = parser.format_help()
        assert parser.description
        assert "None" not in help
        silent = [action.dest for action in parser._actions if not action.help]
        assert silent in ([], [argparse.SUPPRESS])  # the parts of a command, each of which has its own
        assert "_" not in parser.format_usage()
        told = [action.help for action in parser._actions if action.help not in (None, argparse.SUPPRESS)]
        assert [help for help in told if help.isupper()] == []
        names = [action.metavar for action in parser._actions if isinstance(action.metavar, str)]
        assert [name for name in names if not name.isupper()] == []


def test_every_mistake_is_two_lines(
    every_parser: list[argparse.ArgumentParser], capsys: pytest.CaptureFixture[str]
) -> None:
    for parser in every_parser:
        with pytest.raises(SystemExit) as ended:
            parser.parse_args(["--hepl"])
        lines = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2
        assert len(lines) == 2
        has_parts = any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)
        assert ("COMMAND" if has_parts else "--hepl (did you mean '--help'?)") in lines[0]
        assert lines[1] == f"`{parser.prog} --help` says what there is."


def test_a_plan_is_for_gpus_of_some_size(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--gpu", "h100", "--gpu-memory", "80GB"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(["plan", *arguments])
        assert ended.value.code == 2
        assert "--gpu-memory" in capsys.readouterr().err


def test_the_version_takes_no_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == cli.main(["version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    with pytest.raises(SystemExit):
        cli.main(["version", "--json"])


def test_whoever_reads_may_have_seen_enough() -> None:
    """The pipe is closed before anything is written, and nobody hears of it."""
    command = [sys.executable, "-m", "deployments.command.cli", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_that_is_a_failure_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left to write goes nowhere, rather than fail once more at the interpreter's end."""

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def fileno(self) -> int:
            return pipe.fileno()

    with (tmp_path / "pipe").open("w") as pipe:
        monkeypatch.setattr("sys.stdout", Closed())
        assert cli.main(["version"]) == 1
        monkeypatch.undo()
        pipe.write("what was left")
    assert (tmp_path / "pipe").read_text() == ""


def test_ctrl_c_ends_it_without_a_word(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "run", interrupted)
    assert cli.main(["plan", "--gpu-memory", "24GiB"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(ConfigError("no such model"), 2, "no such model"), (RuntimeError("no server"), 1, "no server")],
)
def test_what_failed_is_said_by_the_command_and_told_apart(
    error: Exception, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> int:
        raise error

    monkeypatch.setattr(plan, "run", fail)
    assert cli.main(["plan"]) == code
    assert capsys.readouterr() == ("", f"starcoder plan: {said}\n")


def test_a_command_is_given_the_rest_of_the_line_and_its_code_is_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    monkeypatch.setattr(plan, "run", lambda arguments: given.append(arguments) or 7)
    assert cli.main(["plan", "plan", "--help"]) == 7
    monkeypatch.setattr(sys, "argv", ["starcoder", "plan", "-h"])
    assert cli.main() == 7
    assert given == [["plan", "--help"], ["-h"]]


def test_the_help_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "usage: starcoder COMMAND [options]"
    assert lines[-1] == "`starcoder COMMAND --help` says more of each."
    helps = {command.help for command in cli.COMMANDS.values()}
    columns = {line.index(help) for line in lines for help in helps if line.endswith(f"  {help}")}
    assert columns == {2 + max(map(len, cli.COMMANDS)) + 2}


def test_of_a_command_that_there_is_not_both_lines_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plam"]) == 2
    said = "starcoder: there is no command 'plam' (did you mean 'plan'?)\n`starcoder --help` says what there is.\n"
    assert capsys.readouterr() == ("", said)
