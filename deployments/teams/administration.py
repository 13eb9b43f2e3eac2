"""What administrators do that is more than a call of the store: keys, and what things cost."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from deployments.team_settings import TeamsSettings
from deployments.teams.keys import WRONG_PEPPER, Pepper, last_four, new_key
from deployments.teams.money import price_a_token
from deployments.teams.records import NO_LIMITS, Key, Limits, Price, Scope
from deployments.teams.reports import Reports
from deployments.teams.store_errors import InvalidChangeError
from model.config import ConfigError

if TYPE_CHECKING:
    from deployments.teams.store import Store

ANY_MODEL = "*"
"""Whose price it is that the settings say: every model's that has none of its own."""

TEAM_SCOPES: tuple[Scope, ...] = ("generate", "usage")
"""What a team's key may do if nothing else is said."""


class NewKey(NamedTuple):
    """value: the key itself, here and nowhere else: it is not stored."""

    key: Key
    value: str

    def __repr__(self) -> str:
        return f"NewKey({self.key.id!r})"


class Administration:
    """store: open. pepper: what keys are hashed with, from whether one may be made where there is none; asked for, in a
    thread, when a key is made.

    default_price: of models without a price of their own. clock: Unix seconds.
    """

    def __init__(
        self,
        store: Store,
        pepper: Callable[[bool], Pepper],
        default_price: Price,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.default_price = default_price
        self.clock = clock
        self.reports = Reports()
        self._pepper = pepper

    async def create_key(
        self,
        actor: str,
        *,
        team_id: str | None,
        name: str,
        scopes: tuple[Scope, ...],
        expires_at: float | None = None,
        limits: Limits = NO_LIMITS,
    ) -> NewKey:
        """team_id: None makes an administrator's. Raises StoreError, ConfigError where there is no pepper."""
        key, value = await self._key(actor, team_id, name, scopes, expires_at, limits)
        return NewKey(await self.store.add_key(actor, key), value)

    async def rotate_key(self, actor: str, key: Key, grace_s: float = 0.0) -> NewKey:
        """A key like it, which lives as long from now as it did; the old one ends after `grace_s` seconds.

        Raises StoreError.
        """
        now = self.clock()
        if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
            raise InvalidChangeError(f"key {key.id} has ended: make a new one")
        expires_at = None if key.expires_at is None else now + (key.expires_at - key.created_at)
        made, value = await self._key(actor, key.team_id, key.name, key.scopes, expires_at, key.limits)
        ends_at = min(now + grace_s, key.expires_at or float("inf")) if grace_s > 0 else None
        return NewKey(await self.store.replace_key(actor, key.id, made, ends_at), value)

    async def _key(
        self,
        actor: str,
        team_id: str | None,
        name: str,
        scopes: tuple[Scope, ...],
        expires_at: float | None,
        limits: Limits,
    ) -> tuple[Key, str]:
        if ("admin" in scopes) != (team_id is None):
            raise InvalidChangeError("the scope 'admin' is of keys that belong to no team, and of these alone")
        known = await self.store.pepper_ids()
        pepper = await asyncio.to_thread(self._pepper, not known)
        if known and pepper.id not in known:
            raise ConfigError(WRONG_PEPPER)
        value = new_key()
        key = Key(
            id=f"key_{uuid.uuid4()}",
            team_id=team_id,
            name=name,
            digest=pepper.digest(value),
            pepper_id=pepper.id,
            last_four=last_four(value),
            scopes=scopes,
            created_at=self.clock(),
            created_by=actor,
            limits=limits,
            expires_at=expires_at,
        )
        return key, value


def default_price(settings: TeamsSettings) -> Price:
    """Raises ConfigError where a price is no whole number of picodollars a token."""
    cached = settings.input_price if settings.cached_price is None else settings.cached_price
    try:
        prices = [price_a_token(price) for price in (settings.input_price, cached, settings.output_price)]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return Price(model=ANY_MODEL, input=prices[0], cached=prices[1], output=prices[2], valid_from=0.0)
