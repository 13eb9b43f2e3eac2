"""Which of an identity provider's keys are believed, for how long, and when it is asked for others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from deployments.teams.provider_keys import MAX_AGE_S, MISSES_S, ProviderKeys, SigningKeys

RSA, EC, ED = (
    RSAKey.generate_key(2048, {"kid": "rsa"}),
    ECKey.generate_key("P-256", {"kid": "ec"}),
    OKPKey.generate_key("Ed25519", {"kid": "ed"}),
)
ALGORITHMS = {
    "rsa": ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
    "ec": ["ES256", "ES384", "ES512"],
    "ed": ["EdDSA", "Ed25519"],
}


def public(key: RSAKey | ECKey | OKPKey, **more: str) -> dict[str, Any]:
    return {**key.as_dict(private=False), **more}


class Provider:
    """Has these keys. asked: for them, where."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.asked: list[str] = []
        self.now = 1000.0

    async def get(self, url: str) -> bytes:
        self.asked.append(url)
        return msgspec.json.encode({"keys": self.keys})

    def known(self) -> ProviderKeys:
        return ProviderKeys(self.get, lambda: self.now)


def kids(found: SigningKeys) -> list[str | None]:
    return [key.kid for key in found.set.keys]


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=ALGORITHMS)
async def test_a_key_goes_with_the_algorithms_of_its_kind(key: RSAKey | ECKey | OKPKey) -> None:
    found = await Provider(public(key)).known().newest("/jwks", key.kid)
    assert (kids(found), found.algorithms) == ([key.kid], ALGORITHMS[str(key.kid)])
    with_all = await Provider(public(ED), public(RSA, use="sig"), public(EC)).known().newest("/jwks", None)
    assert (kids(with_all), with_all.algorithms) == (
        ["ed", "rsa", "ec"],
        [a for each in ALGORITHMS.values() for a in each],
    )


async def test_what_does_not_sign_or_is_none_is_passed_over() -> None:
    secret = OctKey.generate_key(256, {"kid": "secret"}).as_dict(private=True)
    broken = {**public(EC), "kid": "broken", "x": "!"}
    others = [secret, public(EC, use="enc"), broken, {"kty": "EC"}, {"kty": "LMS"}, {"use": "sig"}]
    found = await Provider(*others, public(RSA)).known().newest("/jwks", "rsa")
    assert (kids(found), found.algorithms) == (["rsa"], ALGORITHMS["rsa"])
    nothing = await Provider(*others).known().newest("/jwks", "rsa")
    assert (kids(nothing), nothing.algorithms) == ([], [])


async def test_it_is_asked_again_where_keys_are_old_or_one_is_not_known() -> None:
    provider = Provider(public(RSA))
    known = provider.known()

    async def asked_at(now: float, kid: str | None) -> int:
        provider.now = 1000.0 + now
        await known.newest("/jwks", kid)
        return len(provider.asked)

    assert [await asked_at(now, "rsa") for now in (0.0, MISSES_S, MAX_AGE_S - 0.5)] == [1, 1, 1]
    assert await asked_at(MAX_AGE_S - 0.5, None) == 1, "a token may leave open which"
    assert await asked_at(MAX_AGE_S, "rsa") == 2
    assert [await asked_at(MAX_AGE_S + later, "new") for later in (0.0, MISSES_S - 0.5, MISSES_S)] == [2, 2, 3]
    provider.keys.append(public(EC, kid="new"))
    assert [await asked_at(MAX_AGE_S + MISSES_S + later, "new") for later in (1.0, MISSES_S, 2 * MISSES_S)] == [3, 4, 4]
    assert set(provider.asked) == {"/jwks"}


async def test_where_it_is_away_the_next_one_asks_again() -> None:
    provider = Provider(public(RSA))
    away = [True]

    async def get(url: str) -> bytes:
        return b"<html>" if away.pop() else await provider.get(url)

    known = ProviderKeys(get, lambda: provider.now)
    with pytest.raises(msgspec.DecodeError):
        await known.newest("/jwks", "rsa")
    away.append(False)
    assert kids(await known.newest("/jwks", "rsa")) == ["rsa"]
