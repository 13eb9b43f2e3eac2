"""Whose answers these are: the server that is asked, and whether those of a folder are its own."""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from benchmarks.server.completions import connect
from deployments.errors import words_of

NOBODY_BEHIND = (502, 503, 504)
"""What a proxy answers whose server is away."""


class Away(RuntimeError):
    """Nobody answers there."""


@dataclass(frozen=True)
class Served:
    """url: without names and passwords. model: `model` of the requests. weights: number format and quantization, where
    the server tells: both may be served under one name. window: of the model, in tokens, where it tells. ours: whether
    it was asked in our own dialect; None where that is not known.
    """

    url: str
    model: str
    weights: str | None = None
    window: int | None = None
    ours: bool | None = None

    def settings(self) -> dict[str, Any]:
        """What a folder keeps of it."""
        told = {"weights": self.weights, "ours": self.ours}
        known = {name: value for name, value in told.items() if value is not None}
        return {"url": self.url, "model": self.model, **known}


async def look_at(client: httpx.AsyncClient, wanted: str | None) -> Served:
    """wanted: the model to ask for, where there are several. Raises Away, RuntimeError for an answer that is none."""
    try:
        response = await client.get("/v1/models")
    except httpx.HTTPError as error:
        raise Away(f"no server at {address(client.base_url)}: {words_of(error)}") from error
    if response.status_code != 200:
        why = f"{address(client.base_url)} answers /v1/models with {response.status_code}"
        raise Away(why) if response.status_code in NOBODY_BEHIND else RuntimeError(why)
    cards = response.json()["data"]
    model = wanted or cards[0]["id"]
    window = next((card.get("max_model_len") for card in cards if card["id"] == model), None)
    return Served(address(client.base_url), model, await _weights(client), window)


def kept_of(options: argparse.Namespace, kept: Served) -> Served:
    """Who would be asked, if anything were missing. kept: whose answers are there, which stands for a server that is
    away.

    Raises RuntimeError for an answer that is none.
    """

    async def look() -> Served:
        async with connect(options) as client:
            return await look_at(client, options.served_model)

    try:
        return asyncio.run(look())
    except Away as away:
        print(f"{away}; figures are of the answers that are there", file=sys.stderr)
        return replace(kept, model=options.served_model or kept.model)


async def _weights(client: httpx.AsyncClient) -> str | None:
    """Of a server that is not ours nothing is known."""
    try:
        response = await client.get("/version")
        told = response.json() if response.status_code == 200 else None
    except (httpx.HTTPError, ValueError):
        return None
    match told:
        case {"dtype": str(dtype), "quantization": str(quantization)}:
            return f"{dtype}, {quantization}"
    return None


def address(url: httpx.URL) -> str:
    return str(url.copy_with(userinfo=b"")).rstrip("/")


def tell(folder: Path, served: Served, asked: int, kept: int) -> None:
    """On standard error: whose answers the figures are of."""
    where = " ".join(filter(None, [served.weights and f"({served.weights})", served.url and f"at {served.url}"]))
    print(f"answers of {served.model} {where} in {folder}: {asked:,} asked, {kept:,} kept", file=sys.stderr)
