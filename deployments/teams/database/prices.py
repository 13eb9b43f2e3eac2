"""Prices, each followed by newer ones."""

from __future__ import annotations

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.teams.database.changes import Change
from deployments.teams.database.schema import prices
from deployments.teams.money import PER_DOLLAR
from deployments.teams.records import Price
from deployments.teams.store_errors import InvalidChangeError


async def add(change: Change, price: Price) -> Price:
    amounts = {"input": price.input, "cached": price.cached, "output": price.output}
    for name, amount in amounts.items():
        if not 0 <= amount <= PER_DOLLAR:
            raise InvalidChangeError(f"{name} price of {amount} picodollars a token: it is from 0 to a dollar")
    later = select(prices.c.valid_from).where(prices.c.model == price.model, prices.c.valid_from >= price.valid_from)
    if (await change.connection.execute(later.limit(1))).first() is not None:
        raise InvalidChangeError(f"{price.model} has a price from then on, or later: prices are followed, not changed")
    await change.connection.execute(prices.insert(), msgspec.structs.asdict(price))
    await change.record("price.set", price.model, {**amounts, "valid_from": price.valid_from})
    return price


async def read(connection: AsyncConnection) -> list[Price]:
    rows = await connection.execute(select(prices).order_by(prices.c.model, prices.c.valid_from))
    return [Price(**row) for row in rows.mappings()]
