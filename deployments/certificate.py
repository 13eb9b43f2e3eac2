"""The certificate that the server shows its clients, and its private key: two files in PEM, which may be renewed."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from deployments.ciphers import CIPHERS
from model.config import ConfigError

AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
"""Ray's processes start in directories of their own. Links stay: a renewed file is often behind the same link."""

Stamp = tuple[tuple[int, int, int], ...]
"""Device, inode and time of change of each file: what a renewal changes, whether in place or behind a link."""


@dataclass(frozen=True)
class Certificate:
    """chain: file of the certificate and those between it and its authority. key: file of its private key."""

    chain: Path
    key: Path

    @classmethod
    def of(cls, chain: Path | None, key: Path | None) -> Certificate | None:
        """None where neither is given. Raises ValueError where only one is."""
        if (chain is None) != (key is None):
            raise ValueError("ssl_certfile and ssl_keyfile belong together: give both, or neither")
        return None if chain is None or key is None else cls(chain, key)

    def check(self) -> None:
        """Raise ConfigError where a file cannot be read, or the key is not the certificate's."""
        for name, path in (("ssl_certfile", self.chain), ("ssl_keyfile", self.key)):
            try:
                path.read_bytes()
            except OSError as error:
                raise ConfigError(f"{name}={path}: {error.strerror}") from error
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(self.chain)
        except ssl.SSLError as error:
            raise ConfigError(f"ssl_certfile={self.chain} holds no certificate in PEM") from error
        try:
            self.context()
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ConfigError(f"the key in {self.key} is not that of the certificate in {self.chain}") from error
            raise ConfigError(f"ssl_keyfile={self.key} holds no private key in PEM: {error.reason}") from error

    def context(self) -> ssl.SSLContext:
        """For a server in Python. Raises ssl.SSLError, OSError, and ConfigError for a key with a passphrase."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self.chain, self.key, self._no_passphrase)
        return context

    def stamp(self) -> Stamp:
        """Differs once a file has been renewed. Raises OSError."""
        states = [path.stat() for path in (self.chain, self.key)]
        return tuple((state.st_dev, state.st_ino, state.st_mtime_ns) for state in states)

    def _no_passphrase(self) -> str:
        raise ConfigError(f"ssl_keyfile={self.key} has a passphrase: the server starts without anybody to ask")
