"""One sequence of a request: what the engine says in token ids, told as text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from deployments.protocol import Delta, Earlier, GenerationRequest
from deployments.replica.special_tokens import special_stops
from deployments.stop_rules.pipeline import RulePipeline, build_pipeline
from deployments.stop_rules.rule import StopRule
from model.request import Output, Request
from model.text.detokenizer import Detokenizer
from model.text.stop_strings import StopStrings
from model.text.tokenizer import Tokenizer
from monitoring import RequestMetrics

_REPLAYED_AT_ONCE = 128
"""Tokens, which take some 10 ms where rules look at their text."""


class SequenceText:
    """Detokenizes one sequence as it grows, and ends it at a stop string or where a stop rule says so.

    index: of the deltas. finished: the last delta has been made; the engine need not go on. What the request says that
    an earlier engine has generated is known and told already.
    """

    def __init__(self, index: int, request: GenerationRequest, tokenizer: Tokenizer) -> None:
        self.index = index
        self.finished = False
        self._params = request.params
        self._tokenizer = tokenizer
        self._skip_special = request.skip_special
        self._detokenizer = Detokenizer(tokenizer, request.skip_special)
        self._stops = StopStrings(request.stop, request.include_stop)
        self._special_stops = special_stops(request, tokenizer)
        self._may_stop = bool(request.stop) or request.rules is not None
        self._rules: RulePipeline | None = None
        if request.rules is not None:
            self._rules = build_pipeline(request.rules, index // request.best_of, tokenizer)
        self._tokens = 0
        self._behind = 0
        """Tokens of the last `_text` that came after the one with which the text ended."""
        self._characters = 0
        self._skip = 0
        if request.earlier:
            self._go_on(request.earlier[index])

    def _go_on(self, earlier: Earlier) -> None:
        """Come to where the client is. Text does not depend on the pieces in which it came: it has what comes out."""
        self.finished = earlier.finished
        if earlier.finished:
            return
        if (known := earlier.taken_over) is not None:
            self._skip = known.typed
            self._text(known.token_ids, known.logprobs)
        self._text(earlier.token_ids, earlier.logprobs)

    def feed(self, output: Output) -> Delta:
        """The delta that `output` adds. Not to be called once `finished`.

        A step may draw several tokens, and steps go on until the engine has heard that the text has ended: what comes
        behind the token that ended it is taken out of `output`, so that the same text is always so many tokens.
        """
        first_offset = len(self._detokenizer.offsets)
        # The token that ended it has no text, but it was generated, and counted.
        ids = output.token_ids if output.stop_token_id is None else output.token_ids[:-1]
        told = self._params.logprobs is not None
        logprobs = [entry.logprob for entry in output.logprobs or ()]
        text = self._text(ids, logprobs)
        if self._stopped and len(output.token_ids) > (kept := len(ids) - self._behind):
            output.token_ids, output.logprobs = output.token_ids[:kept], output.logprobs and output.logprobs[:kept]
            logprobs = logprobs[:kept]
        delta = Delta(
            index=self.index,
            text=text,
            token_ids=output.token_ids,
            logprobs=output.logprobs if told else None,
            rule_logprobs=None if told or output.logprobs is None else logprobs,
            prompt_logprobs=output.prompt_logprobs,
            cached_tokens=output.cached_tokens,
            queue_seconds=output.queue_seconds,
        )
        if self._stopped:
            delta.finish_reason, delta.stop_reason = "stop", self._stops.matched
        elif output.finish_reason is not None:
            self._engine_ended(delta, output)
        self._finish(delta)
        if self._params.logprobs is not None:
            offsets = self._detokenizer.offsets[first_offset:]
            delta.text_offsets = offsets + [self._characters] * (len(output.token_ids) - len(offsets))
        return delta

    async def replay(self, ids: Sequence[int], logprobs: Sequence[float], typed: int, finish: Output | None) -> Delta:
        """The delta of tokens that an earlier request generated, whose first `typed` characters are in the prompt now.

        There may be thousands: the event loop's other work is done in between.
        finish: how they ended, if they did. Of what comes behind the typed text, no more than `max_tokens` are told.
        """
        known = Detokenizer(self._tokenizer, self._skip_special)
        for start in range(0, len(ids), _REPLAYED_AT_ONCE):
            known.push(ids[start : start + _REPLAYED_AT_ONCE])
            await asyncio.sleep(0)
        last = sum(offset < typed for offset in known.offsets) + self._params.max_tokens
        if last < len(ids):
            ids, logprobs, finish = ids[:last], logprobs[:last], None
        self._skip = typed
        parts = []
        for start in range(0, len(ids), _REPLAYED_AT_ONCE):
            end = start + _REPLAYED_AT_ONCE
            parts.append(self._text(ids[start:end], logprobs[start:end]))
            if self._stopped:
                break
            await asyncio.sleep(0)
        delta = Delta(index=self.index, text="".join(parts))
        offsets = self._detokenizer.offsets
        delta.token_ids = [id for id, offset in zip(ids, offsets, strict=False) if offset >= typed]
        if self._stopped:
            delta.finish_reason, delta.stop_reason = "stop", self._stops.matched
        elif finish is not None:
            self._engine_ended(delta, finish)
        elif len(delta.token_ids) >= self._params.max_tokens:
            self._engine_ended(delta, Output("", finish_reason="length"))
        self._finish(delta)
        return delta

    def end(self, rule: StopRule) -> Delta:
        """The last delta of a sequence that is ended from outside: what was held back, as far as it is to be shown."""
        delta = Delta(index=self.index, text=self._rest(), finish_reason=rule.finish_reason)
        delta.ended_by = rule.name
        self.finished = True
        return delta

    def _engine_ended(self, delta: Delta, output: Output) -> None:
        delta.finish_reason = output.finish_reason
        if output.stop_token_id in self._special_stops or output.stop_token_id in self._params.stop_token_ids:
            delta.stop_reason = self._special_stops.get(output.stop_token_id, output.stop_token_id)
        delta.text += self._rest()
        if self._stops.matched is not None:
            delta.finish_reason, delta.stop_reason = "stop", self._stops.matched

    @property
    def _stopped(self) -> bool:
        return self._stops.matched is not None or (self._rules is not None and self._rules.ended)

    def _finish(self, delta: Delta) -> None:
        self.finished = delta.finish_reason is not None
        if self.finished and self._rules is not None:
            if self._stops.matched is not None:
                delta.text += self._rules.flush()
            delta.ended_by = self._rules.ended_by or delta.ended_by

    def _text(self, ids: Sequence[int], logprobs: Sequence[float]) -> str:
        """Text that is certain. The first `min_tokens` tokens cannot end the sequence, so no stop is looked for."""
        unstoppable = max(0, self._params.min_tokens - self._tokens)
        self._tokens += len(ids)
        self._behind = 0
        if not self._may_stop:
            return self._decode(ids)
        shown = []
        if self._rules is None:
            shown.append(self._decode(ids[:unstoppable]))
        else:
            unstoppable = 0  # the rules know of it
        for number, id in enumerate(ids[unstoppable:], start=unstoppable):
            text = self._stops.push(self._decode([id])).text
            shown.append(text if self._rules is None else self._rules.push(text, logprobs[number : number + 1]))
            if self._stopped:
                self._behind = len(ids) - number - 1
                break
        return "".join(shown)

    def _decode(self, ids: Sequence[int]) -> str:
        text = self._detokenizer.push(ids)
        self._characters += len(text)
        skipped, self._skip = self._skip, max(self._skip - len(text), 0)
        return text[skipped:]

    def _rest(self) -> str:
        """The text has ended: what was held back."""
        rest = self._stops.push(self._detokenizer.flush()).text
        if self._stops.matched is None:
            rest += self._stops.flush()
        return rest if self._rules is None else self._rules.push(rest) + self._rules.flush()


def may_end_early(request: GenerationRequest) -> bool:
    """Whether something other than the engine or the client may end a sequence of the request."""
    return bool(request.stop or request.rules or request.session or request.max_time_ms)


def worth_sending(delta: Delta) -> bool:
    """False for a step that gave nothing a client could see."""
    return bool(delta.token_ids or delta.text or delta.finish_reason or delta.prompt_logprobs)


class SequenceTimes:
    """Records when the tokens of one sequence came, from its submission to its end."""

    def __init__(self, recorder: RequestMetrics, sequence: Request, clock: Callable[[], float]) -> None:
        self._recorder = recorder
        self._prompt_tokens = len(sequence.prompt_ids)
        self._service_class = sequence.service_class
        self._clock = clock
        self._started_at = clock()
        self._first_token_at: float | None = None
        self._last_token_at = 0.0
        self._earlier = self._tokens = len(sequence.output_ids)
        self._ended = False

    def saw(self, output: Output) -> None:
        now = self._clock()
        if not output.token_ids:
            return
        if self._first_token_at is None:
            self._first_token_at = now
            self._recorder.queued(output.queue_seconds, self._service_class)
            self._recorder.prefilled(max(now - self._started_at - output.queue_seconds, 0.0))
            if not self._earlier:
                self._recorder.first_token(now - self._started_at)
        else:
            self._recorder.inter_token(now - self._last_token_at, len(output.token_ids))
        self._last_token_at = now
        self._tokens += len(output.token_ids)

    def engine_died(self) -> None:
        """Another engine may go on with it, and counts its tokens in the end: those of before as well."""
        self.ended("error", tokens=False)

    def ended(self, reason: str, tokens: bool = True) -> None:
        """Only the first call counts, of this and its neighbours. tokens: count its tokens, too."""
        if self._ended:
            return
        self._ended = True
        self._recorder.request_finished(reason, self._clock() - self._started_at)
        if tokens:
            self._recorder.tokens(self._prompt_tokens, self._tokens)
        if self._first_token_at is not None:
            self._recorder.decoded(self._last_token_at - self._first_token_at)

    def cancelled(self) -> None:
        """Nobody waits for it any more: its client has left."""
        if not self._ended:
            self._recorder.cancelled(self._tokens)
            self.ended("abort")
