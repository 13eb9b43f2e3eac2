"""Questions to an OpenAI-compatible server: with patience, and with what its own dialect adds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.server.completions import PATH

PATIENCE_S = 600.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
LATER = (408, 409, 425, 429, 500, 502, 503, 504)
RENDER = f"{PATH}/render"
OURS = "text_completion.rendering"


BACKGROUND: Mapping[str, Any] = {"priority": 1}
AS_PUBLISHED: Mapping[str, Any] = {"fim_mode": "psm"}
"""The order in which gaps were filled for the published figures."""


class TooLong(Exception):
    """The prompt does not fit the window."""


class Refused(RuntimeError):
    """The server will not have such a question, however often it is asked. status: its answer's."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(f"the server refuses: {status}: {why}")
        self.status = status


@dataclass(frozen=True)
class Timed:
    """An answer. began, ended: of the attempt that it came of, in Unix seconds; those before are not its time, nor is
    waiting between them.
    """

    answer: dict[str, Any]
    began: float
    ended: float


class Server:
    """model: `model` of the requests. patience_s: for how long a question is repeated that finds no answer.

    around_gaps: fields of our own dialect that go with each question that has a suffix. ours: whether it is this
    project's, once `look` has found out.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        model: str,
        patience_s: float = PATIENCE_S,
        around_gaps: Mapping[str, Any] = AS_PUBLISHED,
    ) -> None:
        self._client = client
        self._model = model
        self._patience_s = patience_s
        self._around_gaps = around_gaps
        self.ours = False

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Raises Refused where it is refused for good, RuntimeError where nobody answers, TooLong where it does not
        fit.
        """
        return (await self.timed(body)).answer

    async def timed(self, body: Mapping[str, Any]) -> Timed:
        """Likewise, and what time that took."""
        response, began = await self._ask(PATH, self._spoken(body))
        return Timed(_good(response), began, time.time())

    async def look(self) -> None:
        """Find out whether it shows prompts, and knows what else is our own."""
        response, _ = await self._ask(RENDER, {"model": self._model, "prompt": "x", "max_tokens": 1})
        self.ours = response.status_code == 200 and OURS in response.text

    async def room(self, body: Mapping[str, Any]) -> tuple[int, int | None]:
        """Tokens of a prompt, and those that the window leaves, where the server tells. Raises as `complete` does.

        A server that does not show prompts runs it for one token, and says in `usage` how long it was.
        """
        body = {**body, "max_tokens": 1}
        if self.ours:
            found = _good((await self._ask(RENDER, self._spoken(body)))[0])
            return len(found["token_ids"]), found["remaining_tokens"]
        if not (usage := (await self.complete(body)).get("usage")):
            raise RuntimeError("the server does not say how many tokens a prompt has")
        return int(usage["prompt_tokens"]), None

    def _spoken(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """In the background, where the server knows such fields."""
        own = {**BACKGROUND, **(self._around_gaps if "suffix" in body else {})} if self.ours else {}
        return {"model": self._model, **body, **own}

    async def _ask(self, path: str, body: Mapping[str, Any]) -> tuple[httpx.Response, float]:
        """The first answer that is final, and when it was asked for, in Unix seconds.

        Raises RuntimeError where there is none in time.
        """
        deadline, pause = time.monotonic() + self._patience_s, FIRST_PAUSE_S
        while True:
            began = time.time()
            try:
                response = await self._client.post(path, json=body)
                if response.status_code not in LATER or response.headers.get("x-should-retry") == "false":
                    return response, began
                why, wanted = f"{response.status_code}: {response.text[:200]}", asked_pause(response.headers)
            except httpx.TransportError as error:
                why, wanted = f"{type(error).__name__}: {error}", None
            wait = pause if wanted is None else wanted
            if time.monotonic() + wait > deadline:
                raise RuntimeError(f"the server does not answer: {why}")
            await asyncio.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE_S)


def asked_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server wants to be left alone. None: it does not say, or says 0, and yet is busy."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if seconds > 0:
            return seconds
    return None


def _good(response: httpx.Response) -> dict[str, Any]:
    if _too_long(response):
        raise TooLong
    if response.status_code != 200:
        raise Refused(response.status_code, response.text[:500])
    found: dict[str, Any] = response.json()
    return found


def _too_long(response: httpx.Response) -> bool:
    """OpenAI says it by its code, vLLM in words."""
    told = ("context_length_exceeded", "maximum context length")
    return response.status_code == 400 and any(words in response.text for words in told)
