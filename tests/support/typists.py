"""People who type before a replica, in virtual time: what each of their pauses comes to."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from functools import cached_property

from benchmarks.server.typing_model import TypingModel, keystrokes, pauses
from deployments.protocol import EditorSession, GenerationRequest
from deployments.replica.service import EngineService
from model.request import SamplingParams
from model.text.fim import FimMode

LINE = "    total = add(values, carry)\n"
CHARACTERS_A_TOKEN = 3


@dataclass
class Typist:
    """One person in one file. lines_at: for each pause, after how many seconds a whole line was there; None: never.

    before, after: tokens of the file around what is typed.
    """

    number: int
    before: int
    after: int
    mode: FimMode = "spm"
    max_tokens: int = 48
    session: bool = True
    lines_at: list[float | None] = field(default_factory=list)

    @cached_property
    def file(self) -> list[int]:
        return random.Random(self.number).choices(range(1000, 40_000), k=self.before + self.after)

    def prompt(self, typed: int) -> list[int]:
        ids = self.file
        prefix = ids[: self.before] + [500 + i % 400 for i in range(typed // CHARACTERS_A_TOKEN)]
        suffix = ids[self.before :]
        return [1, 3, *suffix, 2, *prefix] if self.mode == "spm" else [1, *prefix, 3, *suffix, 2]

    def request(self, typed: int) -> GenerationRequest:
        key = f"typist {self.number}"
        text = "x" * self.before + (LINE * 99)[:typed]
        session = EditorSession(key=key, prefix=text, prefix_length=len(text), surroundings="")
        return GenerationRequest(
            request_id=f"{self.number}-{len(self.lines_at)}",
            prompts=[self.prompt(typed)],
            params=SamplingParams(max_tokens=self.max_tokens, temperature=0.0),
            session=session if self.session else None,
        )

    async def type(self, service: EngineService, lines: int, begins: float) -> None:
        """Type so many lines, and ask at each pause; what has not been answered by the next is given up."""
        model = TypingModel()
        plan = pauses(keystrokes(LINE * lines, model, self.number), model.debounce)
        clock = asyncio.get_running_loop().time
        started = clock() + begins
        asking: asyncio.Task[None] | None = None
        for pause in plan:
            await asyncio.sleep(started + pause.at - clock())
            if asking is not None:
                asking.cancel()
            self.lines_at.append(None)
            asking = asyncio.create_task(self._ask(service, self.request(pause.typed), clock()))
        if asking is not None:
            await asyncio.wait([asking])

    async def _ask(self, service: EngineService, request: GenerationRequest, asked_at: float) -> None:
        place = len(self.lines_at) - 1
        async with contextlib.aclosing(service.stream(request)) as stream:
            async for batch in stream:
                if batch[-1].finish_reason in ("length", "stop") and batch[-1].ended_by is None:
                    self.lines_at[place] = asyncio.get_running_loop().time() - asked_at


def percent_within(typists: list[Typist], seconds: float) -> float:
    """Of the pauses, those that had a line after so many seconds."""
    lines = [at for typist in typists for at in typist.lines_at]
    return 100 * sum(at is not None and at <= seconds for at in lines) / len(lines)


def percent_finished(typists: list[Typist]) -> float:
    """Of the pauses, those that had a line before the next one."""
    return percent_within(typists, float("inf"))
