"""A backend without an engine: it answers every prompt with a known text, token by token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from deployments.health import HealthReport
from deployments.protocol import Delta, GenerationRequest, ModelInfo, gathered
from deployments.replica.sequence import SequenceText
from model.request import Output, Request, TokenLogprobs
from model.text.tokenizer import Tokenizer

ANSWER = "def größe(a, b):\n    return a + b  # 漢字 🎉\n"
MODEL = "bigcode/tiny-starcoder"
WINDOW = 256


class FakeBackend:
    """Answers `ANSWER`, its tokens rotated by the number of the completion, then end-of-text.

    requests: what arrived. closed: ids of requests whose generator was closed or ran to its end.
    gate: tokens after the first wait for it; with `silent`, the first one too.
    failure: raised before token number `fail_at`, `failures_left` times.
    """

    def __init__(self, tokenizer: Tokenizer, window: int = WINDOW) -> None:
        self.tokenizer = tokenizer
        self.window = window
        self.requests: list[GenerationRequest] = []
        self.closed: list[str] = []
        self.gate: asyncio.Event | None = None
        self.failure: Exception | None = None
        self.fail_at = 0
        self.failures_left = 1_000_000
        self.silent = False
        self.report = HealthReport(healthy=True, heartbeat_seconds=0.01, running=1, waiting=2, kv_cache_usage=0.5)

    def tokens(self, number: int = 0) -> list[int]:
        ids = self.tokenizer.encode(ANSWER)
        return ids[number:] + ids[:number]

    @staticmethod
    def logprob(token_id: int) -> float:
        return -0.1 - token_id % 13 / 4

    def logprobs(self, token_id: int, top: int) -> TokenLogprobs:
        """The chosen token is second best, so it is not among the alternatives when only one is asked for."""
        chosen = self.logprob(token_id)
        others = [((token_id + 1) % self.tokenizer.vocab_size, chosen + 0.05), (token_id, chosen)]
        others += [((token_id + i) % self.tokenizer.vocab_size, chosen - i) for i in range(2, top + 2)]
        return TokenLogprobs(token_id, chosen, others[:top])

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        self.requests.append(request)
        texts = [SequenceText(i, request, self.tokenizer) for i in range(len(request.prompts) * request.best_of)]
        try:
            for step in range(request.params.max_tokens):
                if self.failure is not None and step == self.fail_at and self.failures_left:
                    self.failures_left -= 1
                    raise self.failure
                if (step or self.silent) and self.gate is not None:
                    await self.gate.wait()
                sequences = zip(texts, request.sequences(), strict=True)
                deltas = [t.feed(self.output(t, s, step)) for t, s in sequences if not t.finished]
                if not deltas:
                    return
                yield deltas
                await asyncio.sleep(0)
        finally:
            self.closed.append(request.request_id)

    def answer_ids(self, text: SequenceText, sequence: Request) -> list[int]:
        return self.tokens(text.index)

    def output(self, text: SequenceText, sequence: Request, step: int) -> Output:
        params, answer = sequence.params, self.answer_ids(text, sequence)
        output = Output(sequence.request_id, cached_tokens=len(sequence.prompt_ids) // 16 * 16 if step == 0 else 0)
        token_id = answer[step] if step < len(answer) else self.tokenizer.eos_id
        output.token_ids = [token_id]
        if params.logprobs is not None:
            output.logprobs = [self.logprobs(token_id, params.logprobs)]
        if params.prompt_logprobs is not None and step == 0:
            top = params.prompt_logprobs
            output.prompt_logprobs = [None, *(self.logprobs(i, top) for i in sequence.prompt_ids[1:])]
        if (token_id == self.tokenizer.eos_id and not params.ignore_eos) or token_id in params.stop_token_ids:
            output.finish_reason, output.stop_token_id = "stop", token_id
        elif step + 1 == params.max_tokens:
            output.finish_reason = "length"
        return output

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        return await gathered(self.stream(request))

    async def health(self) -> HealthReport:
        return self.report

    async def info(self) -> ModelInfo:
        return ModelInfo(id=MODEL, max_model_len=self.window, created=1_700_000_000)
