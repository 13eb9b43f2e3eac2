"""One sequence of a request: what the engine says in token ids, told as text."""

from __future__ import annotations

from collections.abc import Callable

from deployments.protocol import Delta, GenerationRequest
from model.detokenizer import Detokenizer
from model.request import Output
from model.stop_strings import StopStrings
from model.tokenizer import Tokenizer
from monitoring import RequestMetrics


class SequenceText:
    """Detokenizes one sequence as it grows and ends it at a stop string.

    index: of the deltas. finished: the last delta has been made; the engine need not go on.
    """

    def __init__(self, index: int, request: GenerationRequest, tokenizer: Tokenizer) -> None:
        self.index = index
        self.finished = False
        self._params = request.params
        self._detokenizer = Detokenizer(tokenizer, request.skip_special)
        self._stops = StopStrings(request.stop, request.include_stop)
        self._tokens = 0
        self._characters = 0

    def feed(self, output: Output) -> Delta:
        """The delta that `output` adds. Not to be called once `finished`."""
        first_offset = len(self._detokenizer.offsets)
        # The token that ended it has no text, but it was generated, and counted.
        ids = output.token_ids if output.stop_token_id is None else output.token_ids[:-1]
        delta = Delta(
            index=self.index,
            text=self._text(ids),
            token_ids=output.token_ids,
            logprobs=output.logprobs,
            prompt_logprobs=output.prompt_logprobs,
            cached_tokens=output.cached_tokens,
            queue_seconds=output.queue_seconds,
        )
        if self._stops.matched is None and output.finish_reason is not None:
            delta.finish_reason = output.finish_reason
            if output.stop_token_id in self._params.stop_token_ids:
                delta.stop_reason = output.stop_token_id
            delta.text += self._stops.push(self._detokenizer.flush()).text
        if self._stops.matched is not None:
            delta.finish_reason, delta.stop_reason = "stop", self._stops.matched
        elif delta.finish_reason is not None:
            delta.text += self._stops.flush()
        if self._params.logprobs is not None:
            offsets = self._detokenizer.offsets[first_offset:]
            delta.text_offsets = offsets + [self._characters] * (len(output.token_ids) - len(offsets))
        self.finished = delta.finish_reason is not None
        return delta

    def _text(self, ids: list[int]) -> str:
        """Text that is certain. The first `min_tokens` tokens cannot end the sequence, so no stop is looked for."""
        unstoppable = max(0, self._params.min_tokens - self._tokens)
        self._tokens += len(ids)
        early, late = self._detokenizer.push(ids[:unstoppable]), self._detokenizer.push(ids[unstoppable:])
        self._characters += len(early) + len(late)
        return early + self._stops.push(late).text


class SequenceTimes:
    """Records when the tokens of one sequence came, from its submission to its end. prompt_tokens: of its prompt."""

    def __init__(self, recorder: RequestMetrics, prompt_tokens: int, clock: Callable[[], float]) -> None:
        self._recorder = recorder
        self._prompt_tokens = prompt_tokens
        self._clock = clock
        self._started_at = clock()
        self._first_token_at: float | None = None
        self._last_token_at = 0.0
        self._tokens = 0
        self._ended = False

    def saw(self, output: Output) -> None:
        now = self._clock()
        if not output.token_ids:
            return
        if self._first_token_at is None:
            self._first_token_at = now
            self._recorder.queued(output.queue_seconds)
            self._recorder.prefilled(max(now - self._started_at - output.queue_seconds, 0.0))
            self._recorder.first_token(now - self._started_at)
        else:
            self._recorder.inter_token(now - self._last_token_at, len(output.token_ids))
        self._last_token_at = now
        self._tokens += len(output.token_ids)

    def ended(self, reason: str) -> None:
        """Only the first call of `ended`, `cancelled` or `superseded` counts."""
        if self._ended:
            return
        self._ended = True
        self._recorder.request_finished(reason, self._clock() - self._started_at)
        self._recorder.tokens(self._prompt_tokens, self._tokens)
        if self._first_token_at is not None:
            self._recorder.decoded(self._last_token_at - self._first_token_at)

    def cancelled(self) -> None:
        """Nobody waits for it any more: its client has left."""
        if not self._ended:
            self._recorder.cancelled(self._tokens)
            self.ended("abort")

    def superseded(self) -> None:
        """Nobody waits for it any more: a newer request of its session has taken its place."""
        if not self._ended:
            self._recorder.superseded(self._tokens)
            self.ended("abort")


def merge(older: Delta, newer: Delta) -> Delta:
    """Add `newer` to `older`, in place: one delta that says both."""
    older.text += newer.text
    older.token_ids = older.token_ids + newer.token_ids
    if newer.logprobs is not None:
        older.logprobs = (older.logprobs or []) + newer.logprobs
    if newer.text_offsets is not None:
        older.text_offsets = (older.text_offsets or []) + newer.text_offsets
    older.prompt_logprobs = older.prompt_logprobs or newer.prompt_logprobs
    older.finish_reason = newer.finish_reason
    older.stop_reason = newer.stop_reason
    older.cached_tokens = max(older.cached_tokens, newer.cached_tokens)
    older.queue_seconds = max(older.queue_seconds, newer.queue_seconds)
    return older
