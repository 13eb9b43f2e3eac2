"""A certificate and its key as settings: what is wrong with them is said in plain words before anything starts."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.certificate import Certificate
from deployments.ciphers import CIPHERS
from deployments.settings import Settings
from model.config import ConfigError
from tests.support.certificates import make_certificate, renew


def swap_keys(own: Certificate, other: Certificate) -> None:
    own.key.write_bytes(other.key.read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda own, other: own.chain.unlink(), "ssl_certfile=.*No such file"),
        (lambda own, other: own.key.unlink(), "ssl_keyfile=.*No such file"),
        (lambda own, other: (own.key.unlink(), own.key.mkdir()), "ssl_keyfile=.*Is a directory"),
        (lambda own, other: own.chain.write_text("hello"), "ssl_certfile=.* holds no certificate in PEM"),
        (lambda own, other: own.chain.write_bytes(own.key.read_bytes()), "holds no certificate in PEM"),
        (lambda own, other: own.key.write_text("hello"), "ssl_keyfile=.* holds no private key in PEM"),
        (swap_keys, "the key in .*own.key is not that of the certificate in .*own.crt"),
    ],
)
def test_what_is_wrong_is_named(
    damage: Callable[[Certificate, Certificate], object], message: str, tmp_path: Path
) -> None:
    own, other = make_certificate(tmp_path, "own"), make_certificate(tmp_path, "other")
    own.check()
    damage(own, other)
    with pytest.raises(ConfigError, match=message):
        own.check()


def test_a_key_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    own = make_certificate(tmp_path)
    own.key.chmod(0)
    if os.access(own.key, os.R_OK):
        pytest.skip("root reads every file")
    with pytest.raises(ConfigError, match=r"ssl_keyfile=.*Permission denied"):
        own.check()


def test_a_passphrase_is_refused_and_asked_for_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has a passphrase"):
        make_certificate(tmp_path, passphrase=b"x" * 8).check()


@pytest.mark.parametrize("given", ["ssl_certfile", "ssl_keyfile"])
def test_one_without_the_other_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="belong together"):
        Settings.from_command_line([f"--{given.replace('_', '-')}", "/x.pem"])


def test_paths_mean_the_same_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = Settings(ssl_certfile=Path("a.crt"), ssl_keyfile=Path("~/a.key"))
    assert settings.certificate == Certificate(tmp_path / "a.crt", Path("/home/somebody/a.key"))
    assert Settings().certificate is None


def test_a_link_to_a_certificate_stays_a_link(tmp_path: Path) -> None:
    """Kubernetes renews by putting another directory behind it."""
    link = tmp_path / "link"
    link.symlink_to("tls.crt")
    assert Settings(ssl_certfile=link, ssl_keyfile=link).ssl_certfile == link


def test_a_renewal_is_seen(tmp_path: Path) -> None:
    own, other = make_certificate(tmp_path, "own"), make_certificate(tmp_path, "other")
    before = own.stamp()
    assert own.stamp() == before
    renew(own, by=other)
    assert own.stamp() != before
    own.check()


def test_old_protocols_and_ciphers_are_not_spoken(tmp_path: Path) -> None:
    context = make_certificate(tmp_path).context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    names = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] == "TLSv1.2"]
    assert sorted(names) == sorted(CIPHERS.split(":"))
