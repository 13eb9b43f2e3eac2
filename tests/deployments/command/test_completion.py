"""Scripts that complete command lines: real shells are asked, where they are installed."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from deployments.command import cli, completion, completion_scripts
from deployments.command.completion import Completion
from deployments.command.completion_scripts import SCRIPTS, Option, Place
from deployments.options import OptionParser
from deployments.settings import Settings
from deployments.settings_options import declared

LINES = {
    "starcoder pl": {"plan"},
    "starcoder serve --dtype ": {"auto", "float32", "bfloat16", "float16"},
    "starcoder serve --dtype fl": {"float32", "float16"},
    "starcoder serve --api.max-f": {"--api.max-fan-out"},
    "starcoder serve --log-te": {"--log-text"},
    "starcoder serve --no-log-t": {"--no-log-text"},
    "starcoder teams cr": {"create"},
    "starcoder teams create --cl": {"--class"},
    "starcoder teams create x --class ": {"interactive", "standard", "batch"},
    "starcoder keys create --team teams --rp": {"--rpm"},
    "starcoder completion f": {"fish"},
    "starcoder complete some": {"some file.py"},
    "starcoder serve --config some": {"some file.py"},
    "starcoder serve --port ": set(),
}

BASH = """
set -- {words}
COMP_WORDS=("$@") COMP_CWORD=$(($#-1))
_starcoder
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def places() -> list[Place]:
    return Completion(cli.COMMANDS).places()


def test_every_setting_can_be_completed(places: list[Place]) -> None:
    (serve,) = [place for place in places if place.path == ("serve",)]
    offered = {name for option in serve.options for name in option.names}
    assert {f"--{name.replace('_', '-')}" for name, _ in declared(Settings)} <= offered
    assert {place.path for place in places} >= {(), ("teams", "create"), ("audit", "verify"), ("completion",)}


def test_all_words_that_may_follow_are_offered() -> None:
    parser = OptionParser("starcoder try", "Tries.")
    parser.add_argument("first", choices=["a", "b"], help="one")
    parser.add_argument("second", choices=[1, 2], help="another")
    parser.add_argument("file", type=Path, help="a third")
    (place,) = completion._places(("try",), parser)
    assert (place.path, place.words, place.files) == (("try",), {"a": "", "b": "", "1": "", "2": ""}, True)


def test_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "bash"]) == 0
    said = capsys.readouterr().out
    assert "complete -F _starcoder starcoder\n" in said
    assert said.endswith("\n")
    assert not said.endswith("\n\n")


def asked(shell: str, script: str, lines: list[str], directory: Path) -> list[set[str]]:
    """What a shell answers to each line in a directory, the options of its own making left out."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (directory / "script").write_text(script)
    (directory / "some file.py").touch()
    question = {
        "bash": lambda line: BASH.format(words=shlex.join([*line.split(" ")])),
        "fish": lambda line: f"complete -C {shlex.quote(line)}\n",
    }[shell]
    program = "source ./script\n" + "\necho ----\n".join(question(line) for line in lines)
    command = [shell, *(["--no-config", "--private"] if shell == "fish" else ["--norc"])]
    run = subprocess.run(command, input=program, cwd=directory, capture_output=True, text=True, timeout=120)
    assert run.stderr == ""
    return [
        {offer.partition("\t")[0] for offer in part.splitlines() if offer.strip()}
        for part in run.stdout.split("----\n")
    ]


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_shell_completes(shell: str, places: list[Place], tmp_path: Path) -> None:
    answers = asked(shell, SCRIPTS[shell](places), list(LINES), tmp_path)
    assert dict(zip(LINES, answers, strict=True)) == LINES


def test_zsh_reads_its_script(places: list[Place], tmp_path: Path) -> None:
    """Its completion wants a terminal: here the script is read, and its places and words are there."""
    script = SCRIPTS["zsh"](places)
    assert "'teams create') offers=(" in script
    assert "'serve --dtype') offers=(auto float32 bfloat16 float16) files=;;" in script
    (outermost,) = [place for place in places if place.path == ()]
    described = [f"{name}:{completion_scripts._short(help)}" for name, help in outermost.words.items()]
    assert f"'') offers=({' '.join(map(shlex.quote, described))}" in script
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    (tmp_path / "script").write_text(script)
    assert subprocess.run(["zsh", "-n", tmp_path / "script"], capture_output=True, timeout=60).stderr == b""


@pytest.mark.parametrize(
    ("help", "short"),
    [
        ("What it does. And more.", "What it does"),
        ("One; two", "One"),
        ("a.b c", "a.b c"),
        ("x" * 72, "x" * 72),
        ("x" * 73, "x" * 71 + "…"),
        ("", ""),
    ],
)
def test_of_a_help_the_first_sentence_is_shown_or_what_fits(help: str, short: str) -> None:
    assert completion_scripts._short(help) == short


FEW = [
    Place((), words={"make": "make one. Or two", "drop": "drop it"}),
    Place(
        ("make",),
        options=[
            Option(("--kind", "--sort"), "which; any", takes_value=True, values=("a", "b c"), files=False),
            Option(("--out",), "where", takes_value=True, values=(), files=True),
            Option(("--as",), "it's a name", takes_value=True, values=(), files=False),
            Option(("--hard",), "really", takes_value=False, values=(), files=False),
        ],
        files=True,
    ),
    Place(("drop",), words={"all": "everything"}),
    Place(("drop", "all"), files=True),
]
"""Of every kind of place and option."""

SHOWN = {
    "bash": """\
        case "$at $word" in ' make'|' drop'|'drop all') at="${at:+$at }$word";; esac
        '') words='make drop';;
        make) words='--kind --sort --out --as --hard' files=yes;;
        drop) words=all;;
        'drop all') words='' files=yes;;
        'make --kind'|'make --sort') words='a b c'; files=;;
        'make --out') words=''; files=yes;;
        'make --as') words=''; files=;;
""",
    "zsh": """\
        case "$at $word" in ' make'|' drop'|'drop all') at="${at:+$at }$word";; esac
        '') offers=('make:make one' 'drop:drop it');;
        make) offers=(--kind:which --sort:which --out:where '--as:it'"'"'s a name' --hard:really) files=yes;;
        drop) offers=(all:everything);;
        'drop all') offers=() files=yes;;
        'make --kind'|'make --sort') offers=(a b c) files=;;
        'make --out') offers=() files=yes;;
        'make --as') offers=() files=;;
""",
    "fish": """\
        contains -- (string join -- ' ' $at $word) 'make' 'drop' 'drop all'
complete -c starcoder -n 'not contains -- (__starcoder_place | string collect -a) \\'make\\' \\'drop all\\'' -f
complete -c starcoder -n '__starcoder_at \\'\\'' -f -a 'make' -d 'make one'
complete -c starcoder -n '__starcoder_at \\'\\'' -f -a 'drop' -d 'drop it'
complete -c starcoder -n '__starcoder_at \\'make\\'' -l kind -x -a 'a b c' -d 'which'
complete -c starcoder -n '__starcoder_at \\'make\\'' -l sort -x -a 'a b c' -d 'which'
complete -c starcoder -n '__starcoder_at \\'make\\'' -l out -r -F -d 'where'
complete -c starcoder -n '__starcoder_at \\'make\\'' -l as -x -d 'it\\'s a name'
complete -c starcoder -n '__starcoder_at \\'make\\'' -l hard -d 'really'
complete -c starcoder -n '__starcoder_at \\'drop\\'' -f -a 'all' -d 'everything'
""",
}
"""Lines that depend on what there is, in their order."""


@pytest.mark.parametrize("shell", SHOWN)
def test_places_become_a_script(shell: str) -> None:
    """Where a shell is not installed, too."""
    script = SCRIPTS[shell](FEW)
    other = SCRIPTS[shell]([Place(())]).splitlines()
    assert [line for line in script.splitlines() if line not in other] == SHOWN[shell].splitlines()
    assert script.endswith("\n")


def test_a_backslash_is_one_to_fish_as_well() -> None:
    assert completion_scripts._fish("a\\'b") == "'a\\\\\\'b'"


def test_options_are_offered_by_their_long_names_with_what_they_take() -> None:
    parser = OptionParser("starcoder try", "Tries.")
    parser.add_argument("-q", "--quiet", action="store_true", help="no\n  words")
    parser.add_argument("--out", type=Path, help="where")
    parser.add_argument("--config", metavar="PATH", help="of %(prog)s")
    parser.add_argument("--size", type=int, choices=[1, 2], default=1, help="(%(default)s)")
    parser.add_argument("--hidden", metavar="N", help=argparse.SUPPRESS)
    parser.add_argument("name", help="whose")
    (place,) = completion._places(("try",), parser)
    options = {option.names: option[1:] for option in place.options}
    assert options[("--quiet",)] == ("no words", False, (), False)
    assert options[("--out",)] == ("where", True, (), True)
    assert options[("--config",)] == ("of starcoder try", True, (), True)
    assert options[("--size",)] == ("(1)", True, ("1", "2"), False)
    assert (place.words, place.files) == ({}, False)


def test_parts_of_a_command_are_places_behind_it() -> None:
    parser = OptionParser("starcoder try", "Tries.")
    parts = parser.parts()
    parts.add_parser("first", help="the first", description="One.").add_argument("file", type=Path, help="which")
    parts.add_parser("second", help="another", description="Two.")
    places = list(completion._places(("try",), parser))
    assert {place.path: (place.words, place.files) for place in places} == {
        ("try",): ({"first": "the first", "second": "another"}, False),
        ("try", "first"): ({}, True),
        ("try", "second"): ({}, False),
    }
