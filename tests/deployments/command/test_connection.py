"""To which server a command speaks, and with which key."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from deployments.command.connection import URL_VARIABLE, bearer, key_given, url_given
from model.config import ConfigError


@pytest.mark.parametrize(
    ("option", "variable", "found"),
    [
        ("http://a", "http://b", "http://a"),
        (None, "http://b", "http://b"),
        (None, "", None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_an_option_goes_before_the_environment(
    option: str | None, variable: str | None, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is None:
        monkeypatch.delenv(URL_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(URL_VARIABLE, variable)
    assert url_given(argparse.Namespace(url=option)) == found


def test_a_key_is_what_a_file_holds_or_else_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("\n sk-sc-1 \n")
    monkeypatch.delenv("OF_A_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert key_given(None, "OF_A_KEY") is None
    for value, key in (("", None), (" \n", None), (" sk-sc-2\n", "sk-sc-2")):
        monkeypatch.setenv("OF_A_KEY", value)
        assert key_given(None, "OF_A_KEY") == key
    assert key_given(tmp_path / "key", "OF_A_KEY") == key_given(Path("~/key"), "OF_A_KEY") == "sk-sc-1"
    assert bearer("sk-sc-1") == {"authorization": "Bearer sk-sc-1"}
    assert bearer(None) == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no key, alone"),
        (b"\n", "holds no key, alone"),
        (b"sk-sc-1 sk-sc-2", "holds no key, alone"),
        (b"sk-sc-1\tsk-sc-2", "holds no key, alone"),
        ("sk-sc-\N{LATIN SMALL LETTER E WITH ACUTE}".encode(), "holds no key, alone"),
        (b"\xff", ": it is no text"),
        (None, ": No such file or directory"),
    ],
)
def test_a_file_without_one_key_alone_is_refused_and_not_shown(
    content: bytes | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_A_KEY", "sk-sc-1")
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        key_given(file, "OF_A_KEY")
    separator = "" if says.startswith(":") else " "
    assert str(refused.value) == f"key file {file}{separator}{says}"


@pytest.mark.parametrize("key", ["two keys", "naïve", "a\x7fb"])
def test_a_variable_without_one_is_named(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_A_KEY", key)
    with pytest.raises(ConfigError, match=r"^OF_A_KEY holds no key, alone$"):
        key_given(None, "OF_A_KEY")
