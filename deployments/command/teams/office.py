"""Where the commands of administrators speak to: a running server, or the database of this machine.

Both ways it is the same HTTP API: without a server its routes run in this process.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from deployments.api.openai.organization.listing import ListPage
from deployments.command.connection import ADMIN_KEY_VARIABLE, TIMEOUT, URL_VARIABLE, bearer, key_given, url_given
from deployments.errors import words_of
from deployments.settings import Settings
from deployments.teams import opening
from deployments.teams.administration import Administration, default_price
from deployments.teams.store import Store
from deployments.teams.store_errors import StoreError
from model.config import ConfigError

_PREFIX = "/v1/organization"

Answer = TypeVar("Answer", bound=BaseModel)
Body = dict[str, Any]


class OfficeError(RuntimeError):
    """What the server said, or that it said nothing. status: of the answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Office:
    """Its methods raise OfficeError."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def get(self, path: str, answer: type[Answer], **parameters: object) -> Answer:
        return answer.model_validate_json(await self._send("GET", path, parameters))

    async def post(self, path: str, body: Body, answer: type[Answer]) -> Answer:
        return answer.model_validate_json(await self._send("POST", path, {}, body))

    async def delete(self, path: str) -> None:
        await self._send("DELETE", path, {})

    async def listed(
        self, path: str, item: type[Answer], most: int = 100, **parameters: object
    ) -> AsyncIterator[Answer]:
        """Every item of a list, page by page; most: of a page."""
        after: str | None = None
        while True:
            page = await self.get(path, ListPage[item], **parameters, after=after, limit=most)  # type: ignore[valid-type]
            for one in page.data:
                yield one
            if not page.has_more:
                return
            after = page.last_id

    async def lines(self, path: str, **parameters: object) -> AsyncIterator[str]:
        """A text, in pieces."""
        try:
            async with self._client.stream("GET", _PREFIX + path, params=_sent(parameters)) as response:
                if response.is_error:
                    raise _refusal(response.status_code, await response.aread())
                async for text in response.aiter_text():
                    yield text
        except httpx.HTTPError as error:
            raise self._silence(error) from error

    async def _send(self, method: str, path: str, parameters: dict[str, object], body: Body | None = None) -> bytes:
        try:
            response = await self._client.request(method, _PREFIX + path, params=_sent(parameters), json=body)
        except httpx.HTTPError as error:
            raise self._silence(error) from error
        if response.is_error:
            raise _refusal(response.status_code, response.content)
        return response.content

    def _silence(self, error: httpx.HTTPError) -> OfficeError:
        return OfficeError(f"{self._client.base_url}: {words_of(error)}")


def path_to(collection: str, *names: str) -> str:
    """names: ids, which may hold anything."""
    return "/".join((collection, *(quote(name, safe="") for name in names)))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where it speaks to."""
    group = parser.add_argument_group("where", "a server, if one is named; else the database of this machine")
    group.add_argument("--url", metavar="URL", help=f"server (default: {URL_VARIABLE}; else the database itself)")
    group.add_argument(
        "--admin-key-file",
        metavar="PATH",
        type=Path,
        help=f"file that holds an administrator's key, alone (default: {ADMIN_KEY_VARIABLE})",
    )
    group.add_argument("--teams.database", dest="database", metavar="URL", help="as of starcoder serve")
    group.add_argument("--teams.pepper-file", dest="pepper_file", metavar="PATH", help="as of starcoder serve")
    group.add_argument("--config", metavar="PATH", help="as of starcoder serve")


@contextlib.asynccontextmanager
async def opened(options: argparse.Namespace, makes: bool) -> AsyncIterator[Office]:
    """makes: a database that is not there is made. Raises ConfigError and OfficeError."""
    url, key = url_given(options), key_given(options.admin_key_file, ADMIN_KEY_VARIABLE)
    if url is not None:
        if key is None:
            raise ConfigError(f"an administrator's key is needed: {ADMIN_KEY_VARIABLE}, or --admin-key-file")
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, headers=bearer(key)) as client:
            yield Office(client)
        return
    async with _local(_settings(options), makes) as client:
        yield Office(client)


def _settings(options: argparse.Namespace) -> Settings:
    named = {"teams.database": options.database, "teams.pepper-file": options.pepper_file, "config": options.config}
    return Settings.from_command_line([f"--{name}={value}" for name, value in named.items() if value is not None])


@contextlib.asynccontextmanager
async def _local(settings: Settings, makes: bool) -> AsyncIterator[httpx.AsyncClient]:
    from deployments.ingress import create_administration_app

    teams = settings.teams
    opening.pepper_file(teams)  # which says what is missing, before anything is made
    try:
        store = await Store.open(teams.database) if makes else await opening.open_store(teams)
    except StoreError as error:
        raise OfficeError(str(error)) from error
    if store is None:
        raise OfficeError("no team and no key was ever made here: `starcoder keys create --admin` makes the first key")
    try:
        administration = Administration(store, lambda make: opening.pepper(teams, make), default_price(teams))
        transport = httpx.ASGITransport(create_administration_app(administration))
        async with httpx.AsyncClient(transport=transport, base_url="http://local") as client:
            yield client
    finally:
        await store.close()


def _sent(parameters: dict[str, object]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def _refusal(status: int, body: bytes) -> OfficeError:
    import msgspec

    try:
        message = str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError):
        message = f"the server answered {status}, and not as this program does"
    return OfficeError(message, status)
