"""The keys that an identity provider signs with, which it changes as it likes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import Key, KeySet, import_key

MAX_AGE_S = 3600.0
"""A key that the provider took back is believed for so long at the most."""

MISSES_S = 5.0
"""A key that is not known may be a new one: the provider is asked, but no more often than this."""

_ALGORITHMS: Final = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("EdDSA", "Ed25519"),
}
"""By kind of key. Secrets that both sides know are none of a provider's keys, and no signature is no signature."""


class _Listed(msgspec.Struct, frozen=True):
    keys: list[dict[str, object]]


@dataclass(frozen=True)
class SigningKeys:
    """algorithms: that go with them."""

    set: KeySet
    algorithms: list[str]

    def has(self, kid: str | None) -> bool:
        return kid is None or any(key.kid == kid for key in self.set.keys)


class ProviderKeys:
    """get: the document at an address; raises where there is none."""

    def __init__(self, get: Callable[[str], Awaitable[bytes]], clock: Callable[[], float]) -> None:
        self._get = get
        self._clock = clock
        self._known = SigningKeys(KeySet([]), [])
        self._read_at = -float("inf")

    async def newest(self, url: str, kid: str | None) -> SigningKeys:
        """All keys at `url`, asked for again where they are old or none is called `kid`."""
        age = self._clock() - self._read_at
        if age >= MAX_AGE_S or (age >= MISSES_S and not self._known.has(kid)):
            self._known = _signing(await self._get(url))
            self._read_at = self._clock()
        return self._known


def _signing(document: bytes) -> SigningKeys:
    """Those that sign and that we understand: a provider may have others too."""
    found: list[Key] = []
    for listed in msgspec.json.decode(document, type=_Listed).keys:
        if listed.get("kty") not in _ALGORITHMS or listed.get("use", "sig") != "sig":
            continue
        try:
            found.append(import_key(listed))  # type: ignore[arg-type]
        except (JoseError, ValueError, TypeError, KeyError):
            continue
    kinds = {key.key_type for key in found}
    return SigningKeys(KeySet(found), [name for kind, names in _ALGORITHMS.items() if kind in kinds for name in names])
