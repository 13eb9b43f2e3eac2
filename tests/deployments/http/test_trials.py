"""When a request whose engine died is asked again, and of what."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.errors import EngineAwayError, EngineUnavailableError
from deployments.http.resuming_backend import Progress, ResumingBackend
from deployments.protocol import Delta, Earlier, GenerationRequest, TakenOver
from model.request import SamplingParams
from tests.deployments.http.test_resuming_backend import Counted, at_once, greedy
from tests.support.log_lines import captured


class Away:
    """Nobody is there. asked: when it was asked, by the loop's time."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.asked: list[float] = []

    async def info(self) -> Any:
        self.asked.append(asyncio.get_running_loop().time())
        raise self._failures.pop(0) if len(self._failures) > 1 else self._failures[0]

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        return await self.info()  # type: ignore[no-any-return]

    async def health(self) -> Any:
        return "its health"


def test_who_is_away_is_asked_more_and_more_seldom_and_then_it_is_said_as_it_is() -> None:
    """No engine has died: there is nothing to tell but why."""
    error, metrics = EngineAwayError("No engine is there."), Counted()
    away = Away(error)
    one = ResumingBackend(away, 5.0, random.Random(5), metrics)  # type: ignore[arg-type]
    with pytest.raises(EngineAwayError) as raised:
        at_once(one.info())
    assert raised.value is error
    assert away.asked == pytest.approx([0.0, 0.1, 0.3, 0.7, 1.5, 2.5, 3.5, 4.5, 5.0])
    assert (metrics.resumed, metrics.lost) == (0, 0)
    assert at_once(one.health()) == "its health"  # type: ignore[comparison-overlap]


def test_each_death_gives_a_request_the_whole_time_again() -> None:
    died, gone = EngineUnavailableError("It died."), EngineAwayError("No engine is there.")
    away = Away(died, *[gone] * 4, died, gone)
    with pytest.raises(EngineUnavailableError, match="took the request over") as error, captured() as lines:
        at_once(ResumingBackend(away, 5.0, random.Random(5)).generate(greedy()))  # type: ignore[arg-type]
    first = [0.0, 0.1, 0.3, 0.7, 1.5, 2.5]
    assert away.asked == pytest.approx([*first, *(2.5 + after for after in (0.1, 0.3, 0.7, 1.5, 2.5, 3.5, 4.5, 5.0))])
    assert error.value.retry_after is None
    assert len(lines.all("request.resuming")) == 2


def test_of_its_time_the_next_engine_is_told_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [50.0]
    clocks = SimpleNamespace(monotonic=lambda: now[0], time=lambda: 7.5)
    monkeypatch.setattr("deployments.http.resuming_backend.time", clocks)
    progress = Progress(greedy(max_time_ms=2_000))
    left = []
    for now[0] in (50.0, 50.5, 51.25, 60.0):
        asked = progress.request()
        left.append((asked.request_id, asked.attempt, asked.max_time_ms))
    assert left == [("r", 0, 2_000), ("r~1", 1, 1_500), ("r~2", 2, 750), ("r~3", 3, 1)]
    asked = ResumingBackend(Away(), 5.0, random.Random(5))._asked(greedy())  # type: ignore[arg-type]
    assert (asked.asked_at, asked.drawn_seed) == (7.5, None)


@pytest.mark.parametrize(
    ("params", "drawn"),
    [(SamplingParams(), True), (SamplingParams(seed=0), False), (SamplingParams(temperature=0.0), False)],
)
def test_a_seed_is_chosen_for_who_gave_none_and_draws(params: SamplingParams, drawn: bool) -> None:
    request = GenerationRequest(request_id="r", prompts=[[1]], params=params)
    asked = ResumingBackend(Away(), 5.0, random.Random(5))._asked(request)  # type: ignore[arg-type]
    assert asked.drawn_seed == (random.Random(5).getrandbits(63) if drawn else None)


def test_what_a_request_has_come_to_is_told_to_the_next_engine() -> None:
    """Of what it took over from an earlier request, the tokens that it was told are no news."""
    taken = TakenOver(prompt_ids=[1], token_ids=[5, 6], logprobs=[], typed=0, told=2)
    progress = Progress(greedy(n=4, best_of=4))
    progress.request()
    progress.saw([Delta(index=0, token_ids=[5, 6, 7], taken_over=taken, cached_tokens=16)])
    progress.saw([Delta(index=1, token_ids=[8], finish_reason="stop"), Delta(index=2, token_ids=[9], cached_tokens=4)])
    assert not progress.finished
    assert progress.request().earlier == (
        Earlier(token_ids=[7], taken_over=taken),
        Earlier(finished=True),
        Earlier(token_ids=[9]),
        Earlier(),
    )
    again = [Delta(index=index, cached_tokens=32) for index in (0, 2, 3)]
    progress.saw(again)
    assert [delta.cached_tokens for delta in again] == [16, 4, 32], "what it had is known, but of who begins now"
    progress.saw([Delta(index=index, finish_reason="stop") for index in (0, 2, 3)])
    assert progress.finished
