"""API keys: 256 random bits that say of themselves what they are, and what is stored of them.

`sk-sc-`, 43 digits of base62, and a checksum of 6: so scanners find leaked ones, and a typing error is told at once.
What is stored is an HMAC-SHA256 with a secret that the database does not have, the pepper. A slow hash would buy
nothing for 256 random bits, and would let strangers keep the server busy.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass
from pathlib import Path

from deployments.teams.private_file import read_or_make

PREFIX = "sk-sc-"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_CHARS = 43  # of 62 each: more than 256 bits
_CHECKSUM_CHARS = 6  # 62^6 > 2^32
_KEY = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_SECRET_CHARS + _CHECKSUM_CHARS}}}", re.ASCII)

PEPPER_BYTES = 32

WRONG_PEPPER = (
    "the pepper is not the one that the keys of this database were hashed with: put that one back from its backup, or "
    "revoke all keys"
)


def new_key() -> str:
    """A key that nobody has. It is shown to its owner once, and never stored."""
    secret = PREFIX + _base62(secrets.randbits(256), _SECRET_CHARS)
    return secret + _checksum(secret)


def is_well_formed(key: str) -> bool:
    """Whether this could be a key of ours: no typing error passes, but for one in four thousand million."""
    return _KEY.fullmatch(key) is not None and hmac.compare_digest(
        _checksum(key[:-_CHECKSUM_CHARS]), key[-_CHECKSUM_CHARS:]
    )


def last_four(key: str) -> str:
    """By which its owner knows it again."""
    return key[-4:]


@dataclass(frozen=True)
class Pepper:
    """The secret that keys are hashed with. id: says which one a stored digest was made with."""

    secret: bytes

    @property
    def id(self) -> str:
        return hashlib.sha256(b"starcoder-serve pepper id" + self.secret).hexdigest()[:16]

    def digest(self, key: str) -> bytes:
        """What is stored of a key: 32 bytes."""
        return hmac.digest(self.secret, key.encode(), "sha256")

    def __repr__(self) -> str:
        return f"Pepper(id={self.id!r})"

    @classmethod
    def from_file(cls, path: Path, make: bool = False) -> Pepper:
        """make: a file that is not there is written, for this user only.

        Raises ConfigError where it is missing, readable for others, or too short to be a secret.
        """
        return cls(read_or_make(path, PEPPER_BYTES, make))


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), _CHECKSUM_CHARS)
