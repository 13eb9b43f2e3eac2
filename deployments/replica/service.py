"""The asyncio face of one engine: requests in, coalesced deltas out, and a watch over the engine's life. No Ray."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Protocol

from deployments.errors import EngineAwayError, EngineGaveUpError, EngineUnavailableError, given_up
from deployments.health import HealthReport
from deployments.protocol import Delta, GenerationRequest, TakenOver, gather, gathered
from deployments.replica.admission import Admission
from deployments.replica.backlog import Standing
from deployments.replica.deadline import in_time
from deployments.replica.demand import Demand
from deployments.replica.pieces import Pieces
from deployments.replica.run import Run
from deployments.replica.sequence import SequenceText, SequenceTimes, may_end_early, worth_sending
from deployments.replica.sequence_trace import RequestTrace
from deployments.replica.sessions import Sessions, Turn
from deployments.replica.special_tokens import barred_ids, with_special_stops
from deployments.stop_rules import max_time, superseded
from model.limits import BATCHED_TOKENS
from model.process.client import EngineDeadError, FailureKind
from model.request import Output, Request
from model.statistics import EngineStats, StepTiming
from model.text.stop_strings import StopStrings
from model.text.tokenizer import Tokenizer
from monitoring import ReplicaMetrics, RequestMetrics
from monitoring.tracing import OFF, Tracing

logger = logging.getLogger(__name__)

STATS_PERIOD_S = 0.25
_MOST_STOP_CHARACTERS = 2_048
_MOST_AROUND = 4_096
"""More characters around a cursor than that take milliseconds to read: a thread does it."""
RETRY_AFTER_S = 5.0


class Client(Protocol):
    """What the service needs of `model.process.client.EngineClient`."""

    stats: EngineStats
    last_message_at: float
    dead: EngineDeadError | None

    @property
    def open_requests(self) -> int: ...
    def generate(self, request: Request) -> AsyncGenerator[Output, None]: ...
    async def ping(self, timeout_s: float) -> EngineStats: ...
    async def wait_dead(self) -> EngineDeadError: ...
    def fail(self, reason: str, kind: FailureKind = "died") -> None: ...
    async def shutdown(self) -> None: ...


class EngineService:
    """Runs generation requests on one engine.

    step_timeout_s: the engine is declared dead when it says nothing for so long while it has work.
    open_streams: requests being answered now. name: of this replica, for logs. caches: the engine finds what it has
    computed of a prompt.
    """

    def __init__(
        self,
        client: Client,
        tokenizer: Tokenizer,
        admission: Admission,
        step_timeout_s: float,
        metrics: ReplicaMetrics,
        clock: Callable[[], float] = time.monotonic,
        demand: Demand | None = None,
        tracing: Tracing = OFF,
        name: str = "",
        caches: bool = True,
    ) -> None:
        self.client = client
        self.admission = admission
        self.demand = demand or Demand(BATCHED_TOKENS["cpu"], clock)
        self.open_streams = 0
        self.sessions = Sessions(tokenizer)
        self.pieces = Pieces(client, clock, metrics.prompt_piece)
        self._tokenizer = tokenizer
        self._step_timeout_s = step_timeout_s
        self._metrics = metrics
        self._clock = clock
        self._tracing = tracing
        self._name = name
        self._caches = caches
        self._has_work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy_since = clock()

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        """Deltas until every sequence has finished; closing it early aborts those that have not.

        What arrives while nobody asks for the next one is merged.
        Raises OverloadedError, EngineUnavailableError, EngineGaveUpError.
        """
        async with contextlib.aclosing(self._deltas(request)) as deltas:
            async for batch in deltas:
                yield batch

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        """One whole delta a sequence, by index. Cancelling it aborts. Raises like `stream`."""
        return await gathered(self._deltas(request))

    async def health(self) -> HealthReport:
        """A heartbeat of the engine and all its ranks. Never raises; a dead engine is never healthy."""
        asked_at = self._clock()
        try:
            stats = await self.client.ping(self._step_timeout_s)
        except (EngineDeadError, TimeoutError) as error:
            return HealthReport(healthy=False, reason=str(error) or "the engine did not answer its heartbeat")
        return HealthReport(
            healthy=True,
            heartbeat_seconds=self._clock() - asked_at,
            running=stats.running,
            waiting=stats.waiting,
            kv_cache_usage=stats.kv_usage,
        )

    def stepped(self, timing: StepTiming) -> None:
        """A step of the engine has ended."""
        self._metrics.step(timing)
        self.demand.step(timing.tokens, timing.seconds)
        self.pieces.pace.stepped(timing.tokens, timing.seconds)

    async def watch(self) -> EngineDeadError:
        """Return when the engine has died, or has been declared dead because a step took too long.

        Sleeps without waking while there is no work: hangs of an idle engine are found by its heartbeat.
        """
        tasks = [asyncio.create_task(self._watch_steps()), asyncio.create_task(self._record_stats())]
        try:
            error = await self.client.wait_dead()
            if error.kind != "stopped":
                self._metrics.engine_lost(error.kind)
            return error
        finally:
            for task in tasks:
                task.cancel()
            self._metrics.engine_stopped()

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no stream is open; False where that takes longer."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def _watch_steps(self) -> None:
        while True:
            await self._has_work.wait()
            quiet_since = max(self.client.last_message_at, self._busy_since)
            left = quiet_since + self._step_timeout_s - self._clock()
            if self.client.open_requests and left <= 0:
                self.client.fail(f"no step ended for {self._step_timeout_s:g} s: a rank hangs", "hung")
                return
            await asyncio.sleep(max(left, 0.05))

    async def _record_stats(self) -> None:
        """Keep the engine's statistics current while it works, and once more after it has come to rest."""
        while True:
            self._metrics.engine_stats(self.client.stats)
            await self._has_work.wait()
            while self.open_streams:
                self._metrics.engine_stats(self.client.stats)
                await asyncio.sleep(STATS_PERIOD_S)
            await asyncio.sleep(STATS_PERIOD_S)

    async def _deltas(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        stats = self.client.stats
        recorder = self._metrics.of(request.team, request.dialect)
        self.demand.offer(sum(map(len, request.prompts)), request.priority, request.service_class)
        # The turn comes first: the request that it supersedes gives its room back.
        with (
            RequestTrace(self._tracing, request, self._clock, self._name) as trace,
            self._living(),
            self.sessions.turn(request) as turn,
            in_time(request, turn, self.demand, self.pieces.pace),
            self.admission.admit(request.unfinished, stats, request.tenant, request.weight) as lease,
            self._open(),
        ):
            run = Run(turn, trace, lease)
            run.on_end(lease.release)
            turn.end = lambda: run.end(superseded.RULE)
            if turn.ended:
                turn.end()
            timer = None
            if request.max_time_ms is not None:
                timer = asyncio.get_running_loop().call_later(request.max_time_ms / 1000, run.end, max_time.RULE)
            try:
                texts = await self._texts(request)
                sequences = with_special_stops(request, self._tokenizer).sequences(barred_ids(request, self._tokenizer))
                pairs = [pair for pair in zip(sequences, texts, strict=True) if not pair[1].finished]
                if len(pairs) == 1 and not may_end_early(request):
                    batches = self._one(*pairs[0], run, recorder)
                else:
                    batches = self._many(pairs, run, recorder)
                async with contextlib.aclosing(batches):
                    # A client that has a part of its answer keeps its place.
                    batch = await (anext(batches, None) if request.earlier else lease.first(batches))
                    while batch is not None:
                        for delta in batch:
                            if delta.ended_by is not None:
                                self._metrics.rule_ended(delta.ended_by)
                        yield batch
                        batch = await anext(batches, None)
            finally:
                if timer is not None:
                    timer.cancel()
                if run.ended_by is superseded.RULE:
                    recorder.superseded(turn.wasted)
                elif lease.displaced:
                    recorder.displaced()

    async def _texts(self, request: GenerationRequest) -> list[SequenceText]:
        """By index. Each may read thousands of characters around its cursor; others have their turn meanwhile."""
        if sum(map(len, request.stop)) > _MOST_STOP_CHARACTERS:
            await asyncio.to_thread(StopStrings, request.stop)  # its automaton is kept for those below
        texts, rules = [], request.rules
        for index in range(len(request.prompts) * request.best_of):
            prompt = index // request.best_of
            if rules is not None and len(rules.prefixes[prompt]) + len(rules.suffixes[prompt]) > _MOST_AROUND:
                texts.append(await asyncio.to_thread(SequenceText, index, request, self._tokenizer))
            else:
                texts.append(SequenceText(index, request, self._tokenizer))
                await asyncio.sleep(0)
        return texts

    @contextlib.contextmanager
    def _living(self) -> Iterator[None]:
        """Raises EngineUnavailableError where the engine is dead, now or later."""
        if self.client.dead is not None:
            raise EngineAwayError(f"The engine stopped: {self.client.dead}.", retry_after=RETRY_AFTER_S)
        try:
            yield
        except EngineDeadError as error:
            raise EngineUnavailableError(f"The engine stopped: {error}.", retry_after=RETRY_AFTER_S) from error

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        if not self.open_streams:
            self._busy_since = self._clock()
            self._has_work.set()
            self._idle.clear()
        self.open_streams += 1
        try:
            yield
        finally:
            self.open_streams -= 1
            if not self.open_streams:
                self._has_work.clear()
                self._idle.set()

    async def _one(
        self,
        sequence: Request,
        text: SequenceText,
        run: Run,
        recorder: RequestMetrics,
    ) -> AsyncGenerator[list[Delta], None]:
        times = SequenceTimes(recorder, sequence, self._clock)
        trace = run.trace.sequence(sequence, text.index)
        prompt = self.demand.prompt(len(sequence.prompt_ids), sequence.priority, Standing.of(sequence))
        try:
            key = run.turn.key
            if key is None or not self._caches or sequence.params.prompt_logprobs is not None:
                answer = self.client.generate(sequence)
            else:
                answer = self.pieces.generate(key, sequence)
            async with contextlib.aclosing(answer) as outputs:
                async for output in outputs:
                    if output.token_ids:
                        prompt.computed(len(sequence.prompt_ids) - output.cached_tokens)
                    failure = output.failure
                    if failure is not None:
                        output.finish_reason = None  # the tokens before it are told, and then the error
                    run.turn.add(output)
                    delta = text.feed(output)  # which takes out of it what is behind the end
                    times.saw(output)
                    trace.saw(output, delta)
                    if delta.finish_reason is not None:
                        times.ended(delta.finish_reason)
                    if worth_sending(delta):
                        yield [delta]
                    if text.finished:
                        return
                    if failure is not None:
                        raise given_up(failure, RETRY_AFTER_S)
        except (EngineDeadError, EngineGaveUpError) as error:
            if isinstance(error, EngineDeadError):
                times.engine_died()
            times.ended("error")
            trace.ended("error")
            raise
        finally:
            prompt.end()
            # unless it has ended already
            if run.cut_short is None:
                times.cancelled()
            else:
                times.ended(run.outcome)
            trace.ended(run.cut_short or run.outcome)

    async def _many(
        self,
        sequences: list[tuple[Request, SequenceText]],
        run: Run,
        recorder: RequestMetrics,
    ) -> AsyncGenerator[list[Delta], None]:
        """A task for each sequence, whose deltas meet in `pending`.

        So a sequence ends in the engine as soon as a rule ends its text, however slowly the client reads.
        """
        pending: dict[int, Delta] = {}
        news = asyncio.Event()

        async def read(sequence: Request, text: SequenceText, prompt_tokens: int) -> None:
            async with contextlib.aclosing(self._one(sequence, text, run, recorder)) as batches:
                async for (delta,) in batches:
                    # Of what an earlier request of the session generated, nothing is in this one's prompt.
                    delta.cached_tokens = min(delta.cached_tokens, prompt_tokens)
                    gather(pending, [delta])
                    news.set()

        lengths = {text.index: len(sequence.prompt_ids) for sequence, text in sequences}
        if run.turn.typed is not None:
            sequences, pending[0] = await self._replay(sequences[0], run.turn, recorder)
            news.set()
        tasks = [
            asyncio.create_task(read(sequence, text, lengths[text.index]))
            for sequence, text in sequences
            if not text.finished
        ]
        for task in tasks:
            task.add_done_callback(lambda _: news.set())
        run.on_end(lambda: [task.cancel() for task in tasks], news.set)
        try:
            while True:
                await news.wait()
                news.clear()
                for task in tasks:
                    if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                        raise error
                if run.ended_by is not None:
                    for _, text in sequences:
                        if not text.finished:
                            last = text.end(run.ended_by)
                            last.ended_seconds = run.trace.age_s()
                            gather(pending, [last])
                finished = all(text.finished for _, text in sequences) or all(task.done() for task in tasks)
                if pending:
                    batch = [pending[index] for index in sorted(pending)]
                    pending.clear()
                    yield batch
                if finished:
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _replay(
        self, pair: tuple[Request, SequenceText], turn: Turn, recorder: RequestMetrics
    ) -> tuple[list[tuple[Request, SequenceText]], Delta]:
        """What an earlier request of the session generated beyond what has been typed, and the request to go on."""
        sequence, text = pair
        known = turn.generation
        assert known is not None
        assert turn.typed is not None
        ids, logprobs = known.token_ids.tolist(), known.logprobs.tolist()
        delta = await text.replay(ids, logprobs, turn.typed, known.finish)
        delta.cached_tokens = len(sequence.prompt_ids)
        delta.engine = self._name
        delta.replayed_tokens = len(delta.token_ids)
        recorder.typed_ahead(delta.replayed_tokens)
        if delta.finish_reason is not None:
            SequenceTimes(recorder, sequence, self._clock).ended(delta.finish_reason)
            self.demand.learn(len(sequence.prompt_ids), 0)
            return [pair], delta
        told = len(delta.token_ids)
        prompt = known.prompt_ids.tolist()
        delta.taken_over = TakenOver(prompt_ids=prompt, token_ids=ids, logprobs=logprobs, typed=turn.typed, told=told)
        left = sequence.params.max_tokens - told
        return [(known.continuation(sequence, left), text)], delta
