"""What is metered is what real services over engines have generated, though engines die and people type on."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Coroutine
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.http.meter import Meter
from deployments.http.metering import on_account
from deployments.http.resuming_backend import MOST_RESUMPTIONS, ResumingBackend
from deployments.protocol import EditorSession, GenerationRequest
from deployments.teams.principal import Principal
from deployments.teams.records import LedgerEntry, Team
from model.request import SamplingParams
from model.text.tokenizer import Tokenizer
from tests.support.accounts import PRICE, entry
from tests.support.mortal_engine import Fleet
from tests.support.tokenizers import starcoder_rules
from tests.support.virtual_time import VirtualTimeLoop


@functools.cache
def tokens() -> Tokenizer:
    return Tokenizer(starcoder_rules())


def at_once(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(coroutine)


async def metered(fleet: Fleet, request: GenerationRequest) -> tuple[LedgerEntry, str]:
    """What it costs, and its text."""
    meter, text = Meter(request, entry(1), PRICE), []
    async for batch in ResumingBackend(fleet, 30.0, random.Random(5)).stream(request):
        meter.saw(batch)
        text += [delta.text for delta in batch]
    owed = meter.ended(9.0)
    assert owed is not None
    return owed, "".join(text)


@given(
    lives=st.lists(st.integers(0, 80), max_size=MOST_RESUMPTIONS),
    best_of=st.integers(1, 3),
    max_tokens=st.integers(1, 60),
    piece=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_a_request_that_engines_resume_costs_what_it_does_on_one(
    lives: list[int], best_of: int, max_tokens: int, piece: int
) -> None:
    request = GenerationRequest(
        request_id="r",
        prompts=[[1, 2, 3], [4]],
        params=SamplingParams(max_tokens=max_tokens, temperature=0.0),
        n=best_of,
        best_of=best_of,
    )

    async def both() -> None:
        undisturbed, _ = await metered(Fleet(tokens(), [None], piece), request)
        disturbed, _ = await metered(Fleet(tokens(), [*lives, None], piece), request)
        assert disturbed == undisturbed
        assert disturbed.prompt_tokens == 4

    at_once(both())


@given(typed=st.integers(0, 30), max_tokens=st.integers(1, 50), death=st.none() | st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_what_was_generated_before_it_was_asked_for_is_told_from_the_rest(
    typed: int, max_tokens: int, death: int | None
) -> None:
    def asked(prefix: str, limit: int) -> GenerationRequest:
        session = EditorSession(key="k", prefix=prefix, prefix_length=len(prefix), surroundings="")
        params = SamplingParams(max_tokens=limit, temperature=0.0)
        return GenerationRequest(request_id="r", prompts=[tokens().encode(prefix)], params=params, session=session)

    async def run() -> None:
        fleet = Fleet(tokens(), [None, None])
        first, text = await metered(fleet, asked("def f", 20))
        assert (first.completion_tokens, first.replayed_tokens) == (fleet.generated, 0)
        before = fleet.generated
        fleet.engines[0]._left = death
        second, _ = await metered(fleet, asked("def f" + text[:typed], max_tokens))
        assert second.completion_tokens - second.replayed_tokens == fleet.generated - before
        assert second.replayed_tokens <= first.completion_tokens

    at_once(run())


def test_an_engine_is_told_of_whom_a_request_is_and_how_long_it_may_wait() -> None:
    team = Team(id="team_a", name="a", created_at=0, weight=3.0, cache_root="root", service_class="interactive")
    request = GenerationRequest(request_id="r", prompts=[[1]], params=SamplingParams(), max_time_ms=7)
    told = on_account(request, Principal(team=team), team, {"interactive": 0.25, "batch": 9.0})
    assert told == msgspec.structs.replace(
        request, tenant="team_a", weight=3.0, service_class=0, cache_root="root", deadline_s=0.25
    )
    assert on_account(request, Principal(team=team), team, {"batch": 9.0}).deadline_s is None
