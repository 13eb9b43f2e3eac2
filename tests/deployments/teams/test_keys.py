"""Keys, the pepper, and the files of secrets."""

from __future__ import annotations

import stat
import string
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.teams.keys import (
    _ALPHABET,
    PEPPER_BYTES,
    PREFIX,
    Pepper,
    _base62,
    is_well_formed,
    last_four,
    new_key,
)
from deployments.teams.private_file import read_or_make
from model.config import ConfigError


def test_keys_are_recognised_and_none_repeats() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(is_well_formed(key) and key.startswith(PREFIX) and len(key) == 55 for key in keys)


KEYS = [new_key() for _ in range(20)]
"""Of this run: what is drawn may depend on them, not on new ones each time."""


@given(st.sampled_from(KEYS), st.data())
def test_every_typing_error_is_told(key: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(len(PREFIX), len(key) - 1))
    typed = data.draw(st.sampled_from("0123456789ABCXYZabcxyz-_ é").filter(lambda char: char != key[place]))
    assert not is_well_formed(key[:place] + typed + key[place + 1 :])
    assert not is_well_formed(key[:place] + key[place + 1 :])
    if key[place - 1] != key[place] and place > len(PREFIX):
        assert not is_well_formed(key[: place - 1] + key[place] + key[place - 1] + key[place + 1 :])


@given(st.text())
def test_any_text_can_be_asked_about(text: str) -> None:
    assert not is_well_formed(text)
    assert not is_well_formed(PREFIX + text)


def test_a_digest_needs_the_pepper() -> None:
    key, one, other = new_key(), Pepper(b"a" * 32), Pepper(b"b" * 32)
    assert one.digest(key) == Pepper(b"a" * 32).digest(key) != other.digest(key)
    assert one.id != other.id
    assert "aaaa" not in repr(one)
    assert last_four(key) == key[-4:]


def test_the_pepper_is_made_once_for_this_user_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "pepper"
    with pytest.raises(ConfigError, match="No such file"):
        Pepper.from_file(path)
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: Pepper.from_file(path, make=True), range(8)))
    assert len(made) == 1
    assert Pepper.from_file(path) in made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["pepper"], "nothing is left over"


def test_a_pepper_that_others_can_read_or_guess_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pepper"
    path.write_bytes(b"x" * PEPPER_BYTES)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="every user"):
        Pepper.from_file(path)
    path.chmod(0o600)
    assert Pepper.from_file(path).secret == b"x" * PEPPER_BYTES
    path.write_bytes(b"short\n")
    with pytest.raises(ConfigError, match="5 bytes"):
        Pepper.from_file(path)


@pytest.mark.parametrize(
    ("mode", "good"), [(0o600, True), (0o640, True), (0o660, True), (0o604, False), (0o602, False), (0o601, False)]
)
def test_a_secret_may_be_a_groups_but_not_everybodys(tmp_path: Path, mode: int, good: bool) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"  " + b"x" * 32 + b"\n")
    path.chmod(mode)
    if good:
        assert read_or_make(path, 32, make=True) == b"x" * 32
    else:
        with pytest.raises(ConfigError, match=f"secret file {path} is open to every user"):
            read_or_make(path, 32, make=True)


def test_a_secret_is_made_beside_its_place_which_may_be_on_another_disk_than_what_is_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    mkstemp = tempfile.mkstemp

    def beside(**options: Any) -> tuple[int, str]:
        handle, path = mkstemp(**options)
        made.append(path)
        return handle, path

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    monkeypatch.setattr("deployments.teams.private_file.tempfile.mkstemp", beside)
    path = tmp_path / "a" / "b" / "secret"
    secret = read_or_make(path, 32, make=True)
    assert path.read_bytes() == secret + b"\n"
    (temporary,) = made
    assert temporary.startswith(str(path.with_name(".secret.")))
    assert read_or_make(path, 32, make=True) == secret
    assert len(made) == 1


def test_a_secret_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "no room")

    monkeypatch.setattr("deployments.teams.private_file.os.fsync", full)
    with pytest.raises(OSError, match="no room"):
        read_or_make(tmp_path / "secret", 32, make=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [0, 1, 61, 62, 2**256 - 1])
def test_digits_are_base_62_and_as_many_as_asked_for(number: int) -> None:
    text = _base62(number, 43)
    value = 0
    for digit in text:
        value = value * 62 + _ALPHABET.index(digit)
    assert (value, len(text)) == (number, 43)
    assert string.digits + string.ascii_uppercase + string.ascii_lowercase == _ALPHABET


def test_another_secret_may_be_longer(tmp_path: Path) -> None:
    secret = read_or_make(tmp_path / "secret", 48, make=True)
    assert len(bytes.fromhex(secret.decode())) == 48
    with pytest.raises(ConfigError, match="96 bytes; at least 97"):
        read_or_make(tmp_path / "secret", 97, make=True)
    assert read_or_make(tmp_path / "secret", 96, make=False) == secret
