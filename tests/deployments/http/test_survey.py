"""The health of a server of many engines: what each says, in a time that none of them decides."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import EngineUnavailableError
from deployments.health import EngineHealth, HealthReport, Member, Members, State
from deployments.http.survey import PATIENCE_S, survey
from tests.support.virtual_time import VirtualTimeLoop

DEADLINE_S = 30.0

NEVER = 1e6


def well(engine: str, **fields: float) -> HealthReport:
    return HealthReport(healthy=True, engine=engine, since=5.0, heartbeat_seconds=0.1, **fields)  # type: ignore[arg-type]


def asked(
    answers: dict[str, tuple[float, HealthReport | Exception]], draining: bool = False, **others: State
) -> tuple[HealthReport, float]:
    """The report, and the seconds that it took. answers: of each engine that Serve calls ready, after how long."""

    async def ask(engine: str) -> HealthReport:
        seconds, answer = answers[engine]
        await asyncio.sleep(seconds)
        if isinstance(answer, Exception):
            raise answer
        return answer

    states: dict[str, State] = {**dict.fromkeys(answers, "ready"), **others}
    engines = [Member(id=name, state=state, since=1.0) for name, state in states.items()]
    return in_virtual_time(lambda: survey(Members(engines=engines, draining=draining), ask, DEADLINE_S))


def in_virtual_time(call: Callable[[], Awaitable[HealthReport]]) -> tuple[HealthReport, float]:
    async def run() -> tuple[HealthReport, float]:
        return await call(), asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(run())


def states(report: HealthReport) -> dict[str, State]:
    return {engine.id: engine.state for engine in report.engines}


def test_all_that_are_ready_are_summed() -> None:
    a, b = well("a", running=3, waiting=1, kv_cache_usage=0.2), well("b", running=4, kv_cache_usage=0.9)
    report, seconds = asked({"a": (0.1, a), "b": (0.2, b)}, c="starting")
    assert (report.healthy, report.running, report.waiting, report.kv_cache_usage) == (True, 7, 1, 0.9)
    assert states(report) == {"a": "ready", "b": "ready", "c": "starting"}
    assert [engine.since for engine in report.engines] == [5.0, 5.0, 1.0]
    assert seconds == pytest.approx(0.2)


def test_an_engine_that_hangs_holds_up_no_answer_about_the_others() -> None:
    report, seconds = asked({"a": (0.1, well("a")), "b": (NEVER, well("b"))})
    assert (report.healthy, states(report)) == (True, {"a": "ready", "b": "silent"})
    assert seconds == pytest.approx(PATIENCE_S)


def test_one_that_is_slow_is_waited_for_where_no_other_is_well() -> None:
    report, seconds = asked({"a": (20, well("a")), "b": (0.1, EngineUnavailableError("gone")), "c": (NEVER, well("c"))})
    assert (report.healthy, states(report)) == (True, {"a": "ready", "b": "silent", "c": "silent"})
    assert report.engines[1].reason == "gone"
    assert seconds == pytest.approx(20)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (HealthReport(healthy=False, engine="a", reason="a rank hangs"), "a rank hangs"),
        (well("b"), "It has gone."),
        (EngineUnavailableError("No engine is there."), "No engine is there."),
    ],
)
def test_why_one_is_not_ready(answer: HealthReport | Exception, reason: str) -> None:
    report, _ = asked({"a": (0.0, answer)}, b="starting", c="starting")
    assert not report.healthy
    assert report.engines[0].reason == reason
    assert report.reason == "No engine is ready: 1 is silent, 2 are starting."


async def test_each_is_asked_on_its_own_account() -> None:
    """Not as a part of the request that asks: Serve's router mixes up calls that one request makes at once."""
    request = contextvars.ContextVar("request", default="none")
    request.set("r-1")
    seen = []

    async def ask(engine: str) -> HealthReport:
        seen.append(request.get())
        return well(engine)

    both = [Member(id=name, state="ready", since=1.0) for name in "ab"]
    assert (await survey(Members(engines=both), ask, DEADLINE_S)).healthy
    assert seen == ["none", "none"]


def test_none_at_all() -> None:
    report, seconds = asked({})
    assert (report.healthy, report.reason, seconds) == (False, "No engine is there.", 0.0)


def test_who_drains_is_not_ready_though_its_engines_are() -> None:
    report, _ = asked({"a": (0.0, well("a"))}, draining=True)
    assert (report.healthy, report.reason, states(report)) == (False, "The server drains.", {"a": "ready"})


@given(st.dictionaries(st.sampled_from("abcd"), st.tuples(st.floats(0, 100), st.booleans())))
def test_it_is_well_exactly_where_one_answers_well_in_time(engines: dict[str, tuple[float, bool]]) -> None:
    answers = {name: (after, HealthReport(healthy=good, engine=name)) for name, (after, good) in engines.items()}
    report, seconds = asked(answers)
    good = [after for after, ok in engines.values() if ok]
    assert seconds <= DEADLINE_S + 1e-6
    if not any(abs(after - DEADLINE_S) < 1e-3 for after in good):
        assert report.healthy is any(after < DEADLINE_S for after in good)
    assert len(report.engines) == len(engines)


def test_what_goes_wrong_here_is_no_engines_silence() -> None:
    with pytest.raises(ZeroDivisionError):
        asked({"a": (0.0, ZeroDivisionError())})


def test_what_an_engine_says_of_itself_is_passed_on_and_the_oldest_sign_of_life_counts() -> None:
    one = HealthReport(healthy=True, engine="a", since=5.0, heartbeat_seconds=0.5, version="1.2", waiting=3)
    report, _ = asked({"a": (0.0, one), "b": (0.0, well("b", waiting=4)), "c": (0.0, HealthReport(healthy=True))})
    first, second, third = report.engines
    assert first == EngineHealth(
        id="a", state="ready", since=5.0, running=0, waiting=3, heartbeat_seconds=0.5, version="1.2"
    )
    assert second == EngineHealth(id="b", state="ready", since=5.0, waiting=4, heartbeat_seconds=0.1)
    assert third == EngineHealth(id="c", state="silent", since=1.0, reason="It has gone.")
    assert (report.heartbeat_seconds, report.waiting, report.reason) == (0.5, 7, None)


def test_one_that_has_not_answered_is_silent_as_long_as_others_are_waited_for() -> None:
    report, seconds = asked({"a": (NEVER, well("a")), "b": (NEVER, well("b"))})
    assert seconds == pytest.approx(DEADLINE_S)
    assert [(engine.state, engine.since, engine.reason) for engine in report.engines] == [
        ("silent", 1.0, "It has not answered yet.")
    ] * 2
    assert (report.healthy, report.heartbeat_seconds, report.kv_cache_usage) == (False, None, 0.0)
    assert report.reason == "No engine is ready: 2 are silent."


def test_ingresses_are_named() -> None:
    async def ask(engine: str) -> HealthReport:
        raise AssertionError("there is none")

    ingress = Member(id="i", state="ready", since=2.0)
    report, _ = in_virtual_time(lambda: survey(Members(ingresses=[ingress]), ask, DEADLINE_S))
    assert (report.ingresses, report.engines) == ([ingress], [])
