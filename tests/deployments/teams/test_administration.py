"""Keys as administrators make and rotate them, and the price of what has none; without a database."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

import msgspec
import pytest

from deployments.team_settings import TeamsSettings
from deployments.teams.administration import ANY_MODEL, Administration, default_price
from deployments.teams.keys import Pepper, is_well_formed, last_four
from deployments.teams.records import Key, Limits
from deployments.teams.store_errors import InvalidChangeError
from model.config import ConfigError
from tests.support.stores import NOON, PEPPER, Clock, a_key

DAY = 86_400.0


@dataclass
class Keys:
    """A store of keys. known: ids of their peppers. calls: what was asked for."""

    known: set[str] = field(default_factory=set)
    calls: list[tuple[object, ...]] = field(default_factory=list)

    async def pepper_ids(self) -> set[str]:
        return self.known

    async def add_key(self, actor: str, key: Key) -> Key:
        self.calls.append((actor, key))
        return key

    async def replace_key(self, actor: str, old_id: str, key: Key, ends_at: float | None = None) -> Key:
        self.calls.append((actor, old_id, key, ends_at))
        return key


def administration(keys: Keys, peppers: list[bool] | None = None) -> Administration:
    """peppers: where it writes down whether one might be made."""

    def pepper(make: bool) -> Pepper:
        if peppers is not None:
            peppers.append(make)
        return PEPPER

    return Administration(keys, pepper, default_price(TeamsSettings()), Clock(NOON))  # type: ignore[arg-type]


async def test_a_new_key_is_stored_as_it_was_asked_for_without_itself() -> None:
    keys, peppers = Keys(), list[bool]()
    limits = Limits(parallel=3)
    made = await administration(keys, peppers).create_key(
        "key:boss", team_id="team_a", name="ci", scopes=("generate",), expires_at=NOON + DAY, limits=limits
    )
    assert is_well_formed(made.value)
    assert made.value not in repr(made)
    assert keys.calls == [("key:boss", made.key)]
    assert made.key.id.startswith("key_")
    assert msgspec.structs.replace(made.key, id="") == Key(
        id="",
        team_id="team_a",
        name="ci",
        digest=PEPPER.digest(made.value),
        pepper_id=PEPPER.id,
        last_four=last_four(made.value),
        scopes=("generate",),
        created_at=NOON,
        created_by="key:boss",
        limits=limits,
        expires_at=NOON + DAY,
    )
    other = await administration(keys).create_key("local", team_id=None, name="", scopes=("admin",))
    assert (other.key.limits, other.key.expires_at) == (Limits(), None)
    assert other.value != made.value
    assert other.key.id != made.key.id
    assert peppers == [True], "there was no key that needs another one"


async def test_who_has_keys_gets_no_new_pepper_and_no_other() -> None:
    peppers: list[bool] = []
    await administration(Keys({PEPPER.id, "older"}), peppers).create_key("local", team_id="a", name="", scopes=())
    assert peppers == [False]
    with pytest.raises(ConfigError, match="not the one"):
        await administration(Keys({"older"})).create_key("local", team_id="a", name="", scopes=())


@pytest.mark.parametrize(("team", "scopes"), [(None, ("generate",)), ("a", ("admin",)), ("a", ("usage", "admin"))])
async def test_administrators_keys_are_of_no_team_and_no_others(team: str | None, scopes: tuple[str, ...]) -> None:
    keys = Keys()
    with pytest.raises(InvalidChangeError, match="no team"):
        await administration(keys).create_key("local", team_id=team, name="", scopes=scopes)  # type: ignore[arg-type]
    assert keys.calls == []


async def test_a_rotated_key_lives_as_long_as_the_old_one_did() -> None:
    keys = Keys()
    old = a_key("a", created_at=NOON - DAY, expires_at=NOON + 2 * DAY, name="ci", limits=Limits(parallel=3))
    made = await administration(keys).rotate_key("key:boss", old)
    ((actor, old_id, new, ends_at),) = keys.calls
    assert (actor, old_id, ends_at) == ("key:boss", old.id, None)
    assert new == made.key
    alike = ("team_id", "name", "scopes", "limits")
    assert [getattr(new, name) for name in alike] == [getattr(old, name) for name in alike]
    assert (new.created_at, new.expires_at, new.created_by) == (NOON, NOON + 3 * DAY, "key:boss")
    assert new.digest == PEPPER.digest(made.value) != old.digest
    forever = await administration(keys).rotate_key("local", a_key("a"))
    assert forever.key.expires_at is None


@pytest.mark.parametrize(
    ("expires_at", "grace_s", "ends_at"),
    [
        (None, 0.0, None),
        (None, 60.0, NOON + 60.0),
        (None, 0.5, NOON + 0.5),
        (NOON + 30.0, 60.0, NOON + 30.0),
        (NOON + 90.0, 60.0, NOON + 60.0),
        (NOON + 90.0, 0.0, None),
    ],
)
async def test_the_old_one_ends_at_once_or_after_a_while_but_never_later_than_it_would_have(
    expires_at: float | None, grace_s: float, ends_at: float | None
) -> None:
    keys = Keys()
    await administration(keys).rotate_key("local", a_key("a", created_at=NOON - 1, expires_at=expires_at), grace_s)
    assert keys.calls[0][3] == ends_at


@pytest.mark.parametrize("ended", [{"revoked_at": NOON - 1}, {"expires_at": NOON}, {"expires_at": NOON - 1}])
async def test_one_that_has_ended_is_not_rotated(ended: dict[str, float]) -> None:
    keys, old = Keys(), a_key("a", **ended)
    with pytest.raises(InvalidChangeError, match=old.id):
        await administration(keys).rotate_key("local", old)
    assert keys.calls == []
    await administration(keys).rotate_key("local", a_key("a", expires_at=NOON + 0.5))


def test_the_price_of_any_model() -> None:
    settings = TeamsSettings(input_price=Decimal("0.001"), output_price=Decimal("0.004"))
    price = default_price(settings)
    assert (price.model, price.valid_from) == (ANY_MODEL, 0.0)
    assert (price.input, price.cached, price.output) == (10**6, 10**6, 4 * 10**6)
    cheaper = default_price(settings.model_copy(update={"cached_price": Decimal("0.0001")}))
    assert (cheaper.input, cheaper.cached, cheaper.output) == (10**6, 10**5, 4 * 10**6)
    free = default_price(settings.model_copy(update={"cached_price": Decimal(0)}))
    assert free.cached == 0
    with pytest.raises(ConfigError):
        default_price(settings.model_copy(update={"output_price": Decimal("0.0000000000001")}))
