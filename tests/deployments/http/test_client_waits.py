"""What clients wait is recorded as they wait it: by any dialect, whole or streamed, however the request ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any, Literal, NamedTuple

import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.api.registry import dialects
from deployments.errors import EngineUnavailableError, OverloadedError
from deployments.ingress import create_app
from deployments.labels import declared_labels
from deployments.protocol import Delta, GenerationRequest
from model.text.tokenizer import Tokenizer
from monitoring import IngressMetrics
from monitoring.specs import FIRST_TOKEN_OBJECTIVE_S
from tests.support.dialect_requests import Ask, either_way
from tests.support.fake_backend import MODEL, FakeBackend
from tests.support.stage import Stage

ASKS = either_way("x")
TOKENS = 3
STEP_S = 0.25

End = Literal["ok", "fails", "shed", "leaves", "superseded"]


class Waits(IngressMetrics):
    """Remembers what was recorded: (dialect, team, seconds) of first tokens, and of requests."""

    def __init__(self) -> None:
        super().__init__(MODEL, declared_labels())
        self.first: list[tuple[str, str, float]] = []
        self.whole: list[tuple[str, str, float]] = []
        self.outcomes: list[str] = []

    def first_token(self, seconds: float, dialect: str = "other", team: str = "default") -> None:
        super().first_token(seconds, dialect, team)
        self.first.append((dialect, team, pytest.approx(seconds)))

    def answered(self, seconds: float, dialect: str = "other", team: str = "default") -> None:
        super().answered(seconds, dialect, team)
        self.whole.append((dialect, team, pytest.approx(seconds)))

    def request_ended(self, outcome: str, dialect: str = "other", team: str = "default") -> None:
        super().request_ended(outcome, dialect, team)
        self.outcomes.append(outcome)


class Course(NamedTuple):
    """Of a request. came_s: it waited so long before our process saw it. end: how it ends, before token number `at`,
    which is `first_s` after the backend was asked for the first and STEP_S after the last one for others. stays: else
    its client leaves as soon as it has asked."""

    end: End
    at: int = 0
    first_s: float = 0.0
    came_s: float = 0.0
    stays: bool = True


WHOLE = Course("ok")


class Scene:
    """An ingress over a slow backend, and one client of it; time passes only while the backend works."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.now = 100.0
        self.course = Course("ok")
        self.metrics = Waits()
        self.stage = Stage(SlowBackend(tokenizer, self))
        self.gone = asyncio.Event()
        self.app: FastAPI = create_app(
            backend=self.stage,
            tokenizer=tokenizer,
            metrics=self.metrics,
            arrived_ago=lambda fields: self.course.came_s,
            clock=lambda: self.now,
        )
        self.text_at: float | None = None
        """Since the request came, when its client was sent the first bytes with text."""

    def play(self, ask: Ask, course: Course = WHOLE) -> None:
        """The whole of a request."""
        for recorded in (self.metrics.first, self.metrics.whole, self.metrics.outcomes):
            recorded.clear()
        self.course, self.text_at, self.gone = course, None, asyncio.Event()
        self._came_at = self.now - course.came_s
        _, path, body = ask
        asyncio.run(self._ask(path, json.dumps(body).encode()))

    async def _ask(self, path: str, body: bytes) -> None:
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            if self.course.stays:
                await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if self.text_at is None and b"def" in message.get("body", b""):
                self.text_at = self.age_s

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
        await self.app(scope, receive, send)

    @property
    def age_s(self) -> float:
        return self.now - self._came_at


class SlowBackend(FakeBackend):
    def __init__(self, tokenizer: Tokenizer, scene: Scene) -> None:
        super().__init__(tokenizer)
        self._scene = scene

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        scene, course = self._scene, self._scene.course
        asked_at, step = scene.now, 0
        async for (delta,) in super().stream(request):
            scene.now += STEP_S if step else course.first_s
            if step == course.at and course.end != "ok":
                await self._end(course.end)
                yield [Delta(index=0, finish_reason="stop", ended_by="superseded", ended_seconds=scene.now - asked_at)]
                return
            if step == 0:
                delta.first_token_seconds = scene.now - asked_at
            if step + 1 == TOKENS and delta.finish_reason is None:
                delta.finish_reason = "length"
            if delta.finish_reason is not None:
                delta.ended_seconds = scene.now - asked_at
            yield [delta]
            if delta.finish_reason is not None:
                return
            step += 1

    async def _end(self, end: End) -> None:
        if end == "fails":
            raise EngineUnavailableError("The engine stopped.")
        if end == "shed":
            raise OverloadedError("The queue is full.")
        if end == "leaves":
            self._scene.gone.set()
            await asyncio.Event().wait()


@pytest.fixture(scope="module")
def scene(tokenizer: Tokenizer) -> Scene:
    return Scene(tokenizer)


def streamed(ask: Ask) -> bool:
    dialect, path, body = ask
    return bool(body.get("stream", dialect == "ollama" or path == "/generate_stream"))


EACH_ASK = pytest.mark.parametrize("ask", ASKS, ids=lambda ask: f"{ask[1]} {'stream' if streamed(ask) else 'whole'}")


def test_each_dialect_is_among_them() -> None:
    assert {dialect for dialect, _, _ in ASKS} == set(dialects())


@EACH_ASK
def test_the_first_token_is_counted_when_its_client_gets_it(scene: Scene, ask: Ask) -> None:
    """A whole answer's as if its client had not chosen to wait for the rest."""
    scene.play(ask, Course("ok", first_s=2.0, came_s=0.75))
    rest_s = (TOKENS - 1) * STEP_S
    assert scene.text_at == pytest.approx(2.75 if streamed(ask) else 2.75 + rest_s)
    assert scene.metrics.first == [(ask[0], "default", 2.75)]
    assert scene.metrics.whole == [(ask[0], "default", 2.75 + rest_s)]
    assert scene.metrics.outcomes == ["ok"]


@settings(max_examples=60)
@given(
    ask=st.sampled_from(ASKS),
    course=st.builds(
        Course,
        end=st.sampled_from(["ok", "fails", "shed", "leaves", "superseded"]),
        at=st.integers(0, TOKENS - 1),
        first_s=st.sampled_from([0.001, 0.1, 0.45, 0.55, 40.0]),
        came_s=st.sampled_from([0.0, 0.03, 7.0]),
        stays=st.just(True),
    ),
)
def test_once_however_it_ends(scene: Scene, ask: Ask, course: Course) -> None:
    scene.play(ask, course)
    first, whole = expected(scene, ask, course)
    assert scene.metrics.first == ([] if first is None else [(ask[0], "default", first)])
    assert scene.metrics.whole == ([] if whole is None else [(ask[0], "default", whole)])
    assert len(scene.metrics.outcomes) == 1


def expected(scene: Scene, ask: Ask, course: Course) -> tuple[float | None, float | None]:
    """Seconds to the first token and to the end, where they count."""
    tokens = TOKENS if course.end == "ok" else course.at
    got_text = tokens > 0 and (streamed(ask) or course.end in ("ok", "superseded"))
    if got_text:
        return course.came_s + course.first_s, scene.age_s
    given_up = course.end in ("leaves", "superseded") and scene.age_s > FIRST_TOKEN_OBJECTIVE_S
    return scene.age_s if given_up else None, None


@pytest.mark.parametrize("body", [[], {"prompt": 1.5}, {"prompt": "x", "model": "another"}])
def test_what_is_refused_waits_for_nothing(scene: Scene, body: Any) -> None:
    scene.play(("openai", "/v1/completions", body))
    assert scene.metrics.outcomes == ["refused"]
    assert scene.metrics.first == scene.metrics.whole == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", ["ok", "leaves"])
def test_nobody_waits_for_what_fills_the_cache(scene: Scene, stream: bool, end: End) -> None:
    body = {"input_prefix": "x", "input_suffix": "", "n_predict": 0, "stream": stream}
    scene.play(("llamacpp", "/infill", body), Course(end, first_s=3.0))
    assert scene.metrics.outcomes == ["ok" if end == "ok" else "aborted"]
    assert scene.metrics.first == scene.metrics.whole == []


def test_what_waits_in_the_ingress_alone_is_missed_too(scene: Scene) -> None:
    """Its client leaves before an engine was asked."""
    scene.play(ASKS[0], Course("ok", came_s=4.0, stays=False))
    assert scene.metrics.outcomes == ["aborted"]
    assert [seconds for _, _, seconds in scene.metrics.first] == [4.0]
    assert scene.metrics.whole == []
