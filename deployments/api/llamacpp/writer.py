"""Answers of llama.cpp's server.

Source: `tools/server/README.md` of ggml-org/llama.cpp, "Response format".
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from deployments.api.common.given_up import check_not_given_up
from deployments.api.common.off_loop import is_long, off_loop
from deployments.api.common.streaming import sse
from deployments.api.openai.logprobs import finite
from deployments.api.openai.schemas import ending
from deployments.protocol import Delta, GenerationRequest, ModelInfo, gather
from model.text.tokenizer import Tokenizer


@dataclass
class LlamaWriter:
    """Collects the deltas of one request, and writes them as llama.cpp's server does.

    untold: of a stream, what no event has said yet: tokens whose text is held back, or cut off.
    """

    tokenizer: Tokenizer
    request: GenerationRequest
    model: ModelInfo
    n_predict: int
    n_probs: int
    return_tokens: bool
    timings_per_token: bool
    response_fields: list[str]
    clock: Callable[[], float] = time.monotonic
    whole: dict[int, Delta] = field(default_factory=dict)
    untold: dict[int, Delta] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started_at = self.clock()
        self.first_at: float | None = None
        self.last_at = self.started_at

    @property
    def warms_up(self) -> bool:
        """n_predict 0 still generates one token, which is nobody's business."""
        return self.n_predict == 0

    def add(self, deltas: list[Delta]) -> None:
        self.last_at = self.clock()
        if self.first_at is None:
            self.first_at = self.last_at
        for delta in deltas:
            check_not_given_up(delta)
            gather(self.whole, [delta])

    def to_json(self, several: bool) -> bytes:
        """An array where there are several completions."""
        answers = self.to_responses()
        return msgspec.json.encode(answers if several else answers[0])

    def to_responses(self) -> list[dict[str, Any]]:
        """Every completion, by index."""
        return [self._selected(self.final(index)) for index in sorted(self.whole)]

    async def to_events(self, updates: AsyncGenerator[list[Delta], None]) -> AsyncGenerator[bytes, None]:
        """Parts as they come; the last event of each completion has the statistics, and no text.

        Each token, and its probabilities, is in one of them.
        """
        async with aclosing(updates):
            async for deltas in updates:
                self.add(deltas)
                events = b""
                gather(self.untold, [msgspec.structs.replace(delta) for delta in deltas])
                for delta in deltas:
                    if delta.text and not self.warms_up:
                        events += sse(self.part(self.untold.pop(delta.index)))
                    if delta.finish_reason is not None:
                        long = is_long([self.whole[delta.index]], self.n_probs)
                        events += await off_loop(long, self._last, delta.index)
                if events:
                    yield events

    def _last(self, index: int) -> bytes:
        return sse(self._selected(self.last(index)))

    def part(self, delta: Delta) -> dict[str, Any]:
        part = {
            "index": delta.index,
            "content": delta.text,
            "tokens": delta.token_ids,
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": len(self.whole[delta.index].token_ids),
            "tokens_evaluated": self._prompt_tokens(delta.index),
        }
        if self.n_probs:
            part["completion_probabilities"] = self._probabilities(delta)
        if self.timings_per_token:
            part["timings"] = self.timings(self.whole[delta.index])
        return part

    def last(self, index: int) -> dict[str, Any]:
        """The event that ends a stream of one completion."""
        left = self.untold.pop(index, Delta(index=index))
        answer = {**self.final(index), "content": "", "tokens": [] if self.warms_up else left.token_ids}
        if self.n_probs:
            answer["completion_probabilities"] = self._probabilities(left)
        return answer

    def final(self, index: int) -> dict[str, Any]:
        """Everything there is to say about one completion."""
        delta = self.whole[index]
        generated = 0 if self.warms_up else len(delta.token_ids)
        content = "" if self.warms_up else delta.text
        stop_type, word = self._stop(delta)
        answer: dict[str, Any] = {
            "index": index,
            "content": content,
            "tokens": delta.token_ids if self.return_tokens and generated else [],
            "id_slot": -1,
            "stop": True,
            "model": self.model.id,
            "tokens_predicted": generated,
            "tokens_evaluated": self._prompt_tokens(index),
            "generation_settings": self._settings(),
            "prompt": self.tokenizer.decode(self._prompt(index), skip_special=False),
            "has_new_line": "\n" in content,
            "truncated": False,
            "stop_type": stop_type,
            "stopping_word": word,
            **ending(None if self.warms_up else delta),
            "tokens_cached": delta.cached_tokens,
            "timings": self.timings(delta),
        }
        if self.n_probs:
            answer["completion_probabilities"] = self._probabilities(delta)
        return answer

    def timings(self, delta: Delta) -> dict[str, Any]:
        """The first token's arrival parts reading the prompt from generating; unknown where all came at once."""
        prompt_n = self._prompt_tokens(delta.index) - delta.cached_tokens
        predicted_n = 0 if self.warms_up else len(delta.token_ids)
        prompt_s = (self.first_at or self.last_at) - self.started_at
        predicted_s = self.last_at - (self.first_at or self.last_at)
        return {
            "cache_n": delta.cached_tokens,
            "prompt_n": prompt_n,
            "prompt_ms": prompt_s * 1000,
            "prompt_per_token_ms": prompt_s * 1000 / max(prompt_n, 1),
            "prompt_per_second": prompt_n / prompt_s if prompt_s else 0.0,
            "predicted_n": predicted_n,
            "predicted_ms": predicted_s * 1000,
            "predicted_per_token_ms": predicted_s * 1000 / max(predicted_n, 1),
            "predicted_per_second": predicted_n / predicted_s if predicted_s else 0.0,
        }

    def _stop(self, delta: Delta) -> tuple[str, str]:
        if delta.finish_reason != "stop" or self.warms_up:
            return "limit", ""
        return ("word", delta.stop_reason) if isinstance(delta.stop_reason, str) else ("eos", "")

    def _prompt(self, index: int) -> list[int]:
        return self.request.prompts[index // self.request.best_of]

    def _prompt_tokens(self, index: int) -> int:
        return len(self._prompt(index))

    def _settings(self) -> dict[str, Any]:
        params = self.request.params
        return {
            "n_ctx": self.model.max_model_len,
            "model": self.model.id,
            "n_predict": self.n_predict,
            "seed": -1 if params.seed is None else params.seed,
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "repeat_penalty": params.repetition_penalty,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "stop": list(self.request.stop),
            "ignore_eos": params.ignore_eos,
            "n_probs": self.n_probs,
        }

    def _probabilities(self, delta: Delta) -> list[dict[str, Any]]:
        def entry(token_id: int, logprob: float) -> dict[str, Any]:
            raw = self.tokenizer.token_bytes(token_id)
            token = raw.decode(errors="replace")
            return {"id": token_id, "token": token, "bytes": list(raw), "logprob": finite(logprob)}

        return [
            {**entry(item.token_id, item.logprob), "top_logprobs": [entry(*best) for best in item.top[: self.n_probs]]}
            for item in delta.logprobs or []
        ]

    def _selected(self, answer: dict[str, Any]) -> dict[str, Any]:
        if not self.response_fields:
            return answer
        chosen: dict[str, Any] = {}
        for path in self.response_fields:
            value: Any = answer
            for key in path.split("/"):
                value = value.get(key, _MISSING) if isinstance(value, dict) else _MISSING
            if value is not _MISSING:
                chosen[path] = value
        return chosen


_MISSING = object()
