"""Options of commands: what a value may be, what a mistake is answered, what the help says of a setting."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from deployments.options import OptionParser, number, positive, share, size_given
from deployments.settings_options import add_options, declared, given
from deployments.sizes import Size
from deployments.spelling import did_you_mean
from deployments.written_as import WrittenAs


class Limits(BaseModel):
    max_things: int = Field(default=3, description="Most things.")
    wait_s: float = Field(default=2.50, description="So long.")


class Model(BaseModel):
    model: str = Field(default="", description="Which, 100 %.")
    price: Decimal | None = Field(default=None, description="Of a token.")
    file: Path | None = Field(default=Path("/x"), description="Where.")
    kept: bool = Field(default=True, description="Whether.")
    shared: bool | None = Field(default=False, description="With whom.")
    memory: Size = Field(default=512 << 20, description="How much.")
    names: Annotated[tuple[str, ...], WrittenAs("NAME,...", ",".join)] = Field(default=("a", "b"), description="Who.")
    mode: Literal["fast", "slow"] | None = Field(default="slow", description="How.")
    keep_hours: int = Field(default=24, description="How long.")
    limits: Limits = Limits()
    needed: int = Field(description="Must be.")


def parser(only: set[str] | None = None, model: type[BaseModel] = Model) -> OptionParser:
    made = OptionParser("it", "What it does.", epilog="And so on.")
    add_options(made, model, {"price": "What it costs", "limits": "Limits"}, only)
    return made


HELP = """\
What it does.

options:
  -h, --help               show this help message and exit
  --model MODEL            Which, 100 %.

What it costs:
  --price USD              Of a token.
  --file PATH              Where. (default: /x)
  --kept, --no-kept        Whether. (default: on)
  --shared, --no-shared    With whom. (default: off)
  --memory SIZE            How much. (default: 512MiB)
  --names NAME,...         Who. (default: a,b)
  --mode {fast,slow}       How. (default: slow)
  --keep-hours HOURS       How long. (default: 24)

Limits:
  --limits.max-things N    Most things. (default: 3)
  --limits.wait-s SECONDS  So long. (default: 2.5)
  --needed N               Must be.

And so on.
"""


def test_the_help_of_every_kind_of_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "82")
    usage, _, rest = parser().format_help().partition("\n\n")
    assert usage.startswith("usage: it [-h] [--model MODEL]")
    assert rest == HELP


def test_only_some_of_them() -> None:
    words = parser({"limits", "file"}).format_help()
    assert "--limits.max-things N" in words
    assert "--file PATH" in words
    assert "--model" not in words
    assert "What it costs" not in words


def test_what_was_said_is_told_apart_from_what_was_not() -> None:
    options = parser().parse_args(["--no-kept", "--limits.wait-s", "7", "--limits.max-things=x", "--keep-hours", "2"])
    assert given(options) == {"kept": False, "limits": {"wait_s": "7", "max_things": "x"}, "keep_hours": "2"}
    assert given(parser().parse_args([])) == {}


def test_settings_have_names() -> None:
    assert [name for name, _ in declared(Model)][-4:] == ["keep_hours", "limits.max_things", "limits.wait_s", "needed"]


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        *((number, "0", 0.0), (number, "2.5", 2.5), (share, "1", 1.0), (share, "0.001", 0.001)),
        *((positive, "1", 1), (positive, "20", 20), (size_given, "2KiB", 2048)),
    ],
)
def test_a_value_that_may_be(read: object, text: str, value: float) -> None:
    made = OptionParser("it", "")
    made.add_argument("--x", type=read)  # type: ignore[arg-type]
    assert made.parse_args(["--x", text]).x == value


@pytest.mark.parametrize(
    ("read", "texts", "words"),
    [
        (number, ("-0.1", "inf", "nan", "x", ""), "is no number of at least 0"),
        (share, ("0", "1.001", "-1", "nan", "x"), "is no number above 0 and at most 1"),
        (positive, ("0", "-1", "1.0", "x", "", "½"), "is no whole number above 0"),
        (size_given, ("24",), "may mean two sizes"),
    ],
)
def test_a_value_that_may_not_be(
    read: object, texts: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = OptionParser("it", "")
    made.add_argument("--x", type=read)  # type: ignore[arg-type]
    for text in texts:
        with pytest.raises(SystemExit) as exit:
            made.parse_args([f"--x={text}"])
        assert exit.value.code == 2
        told = capsys.readouterr().err
        assert told.startswith(f"it: argument --x: {text!r} {words}")
        assert told.endswith("\n`it --help` says what there is.\n")


def command(name: str) -> OptionParser:
    made = OptionParser("it", "")
    made.add_argument("--model")
    if name:
        parts = made.parts()
        assert parts.metavar == "COMMAND"
        parts.add_parser("make", description="").add_argument("--size", required=True)
    return made


@pytest.mark.parametrize(
    ("part", "arguments", "words"),
    [
        ("", ["--modle", "x"], "there is no option --modle (did you mean '--model'?)"),
        ("", ["--mod", "x"], "there is no option --mod (did you mean '--model'?)"),
        ("", ["-x"], "there is no option -x"),
        ("", ["a=b"], "'a=b' is one argument too many"),
        ("", ["--", "--modle"], "'--modle' is one argument too many"),
        ("", ["--", "--"], "'--' is one argument too many"),
        ("part", [], "the following arguments are required: COMMAND"),
        ("part", ["make", "--sise=3"], "there is no option --sise (did you mean '--size'?)"),
        ("part", ["make", "--size=3", "more"], "'more' is one argument too many"),
    ],
)
def test_a_mistake_is_named(
    part: str, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["it", *arguments])
    for ask in (lambda: command(part).parse_args(arguments), lambda: command(part).parse_args()):
        with pytest.raises(SystemExit):
            ask()
        first, _ = capsys.readouterr().err.splitlines()
        assert first.partition(": ")[2] == words


@pytest.mark.parametrize(("name", "nearest"), [("modle", "model"), ("prompts", "prompt"), ("xyzzy", None)])
def test_a_misspelt_name_is_asked_about(name: str, nearest: str | None) -> None:
    assert did_you_mean(name, ["prompt", "model"]) == (f" (did you mean {nearest!r}?)" if nearest else "")


def test_what_stands_behind_two_dashes_is_no_option() -> None:
    made = OptionParser("it", "")
    made.add_argument("word")
    assert made.parse_args(["--", "--modle"]).word == "--modle"
    assert vars(OptionParser("it", "").parse_args(["--"])) == {}


def test_a_long_name_has_its_help_in_the_next_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "82")
    made = OptionParser("it", "What it does.", usage="it [options]")
    made.add_argument("--a-name-of-many-words-and-letters", metavar="N", help="What it is for.")
    assert made.format_help() == (
        "usage: it [options]\n\nWhat it does.\n\noptions:\n"
        f"  -h, --help{' ' * 18}show this help message and exit\n"
        f"  --a-name-of-many-words-and-letters N\n{' ' * 30}What it is for.\n"
    )
