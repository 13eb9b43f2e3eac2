"""However many completions a request asks for, a replica answers others meanwhile."""

from __future__ import annotations

import asyncio
import functools

import pytest

from deployments.errors import OverloadedError
from deployments.protocol import Delta, EditorSession, GenerationRequest, StopRules
from deployments.replica import service as module
from deployments.replica.admission import Admission
from deployments.replica.service import EngineService
from deployments.stop_rules.pipeline import _place
from model.request import SamplingParams
from model.text.tokenizer import Tokenizer
from tests.support.fake_engine import FakeEngine
from tests.support.held import least_hold
from tests.support.linear import text
from tests.support.recorded_metrics import RecordedMetrics
from tests.support.tokenizers import starcoder_rules
from tests.support.waiting import eventually

HELD_S = 0.02
PROMPTS = 32


@functools.cache
def tokens() -> Tokenizer:
    return Tokenizer(starcoder_rules())


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def service(engine: FakeEngine) -> EngineService:
    return EngineService(engine, tokens(), Admission(PROMPTS, 0), 60.0, RecordedMetrics())


def request(id: str, prefixes: list[str], suffix: str = "", **changes: object) -> GenerationRequest:
    settings: dict[str, bool | int | float | str] = {"suffix": True, "repetition": False, "special_token": True}
    rules = StopRules(
        mode="block",
        language="javascript",
        prefixes=tuple(prefixes),
        suffixes=(suffix,) * len(prefixes),
        settings=settings,
    )
    options: dict[str, object] = {"params": SamplingParams(max_tokens=20_000), "rules": rules} | changes
    return GenerationRequest(request_id=id, prompts=[[1]] * len(prefixes), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["minified code", "divisions", "pairs", "quotes", "blank lines"])
async def test_many_cursors(service: EngineService, engine: FakeEngine, kind: str) -> None:
    """What is around each of them is read before the first step."""
    places = [f"{number}\n" + text(kind, 12_000) for number in range(PROMPTS)]
    stops = tuple(chr(ord("A") + number) + "ab" * 500 for number in range(16))

    async def answer() -> None:
        _place.cache_clear()
        asked = asyncio.create_task(service.generate(request("r", places, text(kind, 8_000), stop=stops)))
        await eventually(lambda: len(engine.requests) == PROMPTS)
        for number in range(PROMPTS):
            engine.say(f"r-{number}", 40, finish="stop")
        assert len(await asked) == PROMPTS
        engine.requests.clear()

    assert await least_hold(answer, HELD_S) <= HELD_S


async def test_what_was_generated_for_an_earlier_request_of_the_session(
    service: EngineService, engine: FakeEngine
) -> None:
    """Thousands of tokens run through the rules again."""
    code = "".join(f"  call({number});\n" for number in range(800))
    ids = tokens().encode(code)
    assert len(ids) > 4000

    def session(number: int, prefix: str) -> GenerationRequest:
        about = EditorSession(key="k", prefix=prefix, prefix_length=len(prefix), surroundings="")
        return request(f"s{number}", ["{\n"], session=about)

    asked = asyncio.create_task(service.generate(session(0, "{\n")))
    await eventually(lambda: "s0-0" in engine.requests)
    engine.say("s0-0", *ids, finish="length")
    await asked
    numbers = iter(range(1, 100))

    async def answer() -> None:
        number = next(numbers)
        asked = asyncio.create_task(service.generate(session(number, "{\n  ")))
        await eventually(lambda: f"s{number}-0" in engine.requests)
        engine.say(f"s{number}-0", finish="length")
        (delta,) = await asked
        assert delta.text.startswith("call(0);\n  call(1);\n")
        assert len(delta.token_ids) > 4000

    assert await least_hold(answer, HELD_S) <= HELD_S


async def test_nothing_is_read_for_a_request_that_is_not_admitted(
    service: EngineService, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    monkeypatch.setattr(module, "SequenceText", lambda index, *_: read.append(index))
    service.admission.open = PROMPTS
    with pytest.raises(OverloadedError):
        await service.generate(request("r", ["x"] * 8))
    assert read == []


def test_deltas_are_not_changed_by_being_gathered() -> None:
    first, second = Delta(index=0, text="a", token_ids=[1]), Delta(index=0, text="b", token_ids=[2])
    whole: dict[int, Delta] = {}
    module.gather(whole, [first, second])
    assert (whole[0].text, whole[0].token_ids) == ("ab", [1, 2])
    assert (first.text, first.token_ids, second.token_ids) == ("a", [1], [2])
