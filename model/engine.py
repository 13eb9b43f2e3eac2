"""The whole engine: add, abort, step."""

from __future__ import annotations

import itertools
import logging
import random
import time
from dataclasses import replace

import torch

from model.batch import Batch
from model.device import is_out_of_memory
from model.drafter import Drafter, DraftModel
from model.executor import Executor
from model.limits import PROMPT_ROWS, StepLimits
from model.request import Output, Request
from model.sampler import Drawn, Sampled, draw
from model.scheduling.acceptance import accept
from model.scheduling.batching import build_batch
from model.scheduling.block_tables import BlockTables
from model.scheduling.costs import StepCosts
from model.scheduling.draft_length import Chance, DraftLength
from model.scheduling.drafting import await_tokens, expected_passes, prepare_drafts, propose_drafts
from model.scheduling.kv_cache import BlockPool
from model.scheduling.pace import StepPace
from model.scheduling.prompt_logprobs import Note, prompt_notes
from model.scheduling.scheduler import Scheduler
from model.scheduling.sequence import Scheduled, Sequence
from model.scheduling.speculation import Speculator
from model.scheduling.worth import SpeculationWorth
from model.statistics import EngineCounters, EngineStats, StepTiming
from model.step import DraftPasses, StepInFlight, draft_rows, may_stay
from monitoring import metrics

logger = logging.getLogger(__name__)


class Engine:
    """Runs requests on one model, many at a time. Not thread-safe: one loop owns it.

    max_num_batched_tokens, target_inter_token_latency_s: None chooses by device; 0 s: prompts fill every step.
    async_scheduling: prepare and start a step while the one before runs. A step in which many have drafts, or before
        one in which many are likely to have them, or in which somebody has penalties or wants the prompt's
        log-probabilities, is read before the next one is prepared all the same.
    speculative_tokens: longest draft by prompt lookup, or by `draft_model`; 0 switches speculation off.
    draft_model: drafts where lookup finds nothing, and tokens are read before they are needed; None: lookup alone.
    seed: what requests without one draw theirs from; None: the operating system's entropy.
    prompt_rows: of logits in a step, at most, that predict a prompt's tokens where these are asked for.
    num_kv_blocks: of the cache, so many are used; None: all.
    costs: counts what the steps read and compute, if given. timing: of the last `step`, None where it ran nothing.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        max_num_seqs: int = 64,
        max_num_batched_tokens: int | None = None,
        target_inter_token_latency_s: float | None = None,
        enable_prefix_caching: bool = True,
        speculative_tokens: int = 0,
        async_scheduling: bool = False,
        seed: int | None = None,
        prompt_rows: int = PROMPT_ROWS,
        num_kv_blocks: int | None = None,
        costs: StepCosts | None = None,
        draft_model: DraftModel | None = None,
    ) -> None:
        runner = executor.runner
        self.executor = executor
        self.model = runner.model
        self.max_model_len = runner.max_model_len
        self.pool = BlockPool(num_kv_blocks or runner.num_kv_blocks, runner.block_size, caching=enable_prefix_caching)
        device = runner.device.type
        limits = StepLimits.on(device, max_num_seqs, max_num_batched_tokens, speculative_tokens)
        self.limits = replace(limits, prompt_rows=prompt_rows)
        self.counters = EngineCounters()
        tables = BlockTables(max_num_seqs, -(-runner.max_model_len // runner.block_size))
        self._waits = device == "cpu"  # for a step while it starts it, drawn or not
        self.pace = StepPace.on(device, target_inter_token_latency_s, runner.block_size, costs, self.counters)
        self.scheduler = Scheduler(self.pool, tables, self.limits, self.counters, self.pace)
        self.sequences: dict[str, Sequence] = {}
        self._arrivals = itertools.count()
        self._seeds = random.Random(seed)
        self._given_up: list[Output] = []
        self._async = async_scheduling
        self._in_flight: StepInFlight | None = None
        self._speculative_tokens = speculative_tokens
        self._costs = costs
        self._worth = SpeculationWorth(self.counters) if speculative_tokens else None
        self.drafter: Drafter | None = None
        if draft_model is not None and speculative_tokens:
            eos, longest = self.model.eos_token_ids, speculative_tokens
            self.drafter = Drafter(draft_model, executor, self.scheduler, eos, longest, self.counters, async_scheduling)
        self.timing: StepTiming | None = None

    def add(self, request: Request) -> None:
        """Queue a request. One that can never run comes back from the next step with `finish_reason="abort"`."""
        if not 0 < len(request.prompt_ids) < self.max_model_len or request.request_id in self.sequences:
            self._given_up.append(Output(request.request_id, finish_reason="abort"))
            return
        seed = request.params.seed
        limit = min(len(request.prompt_ids) + request.params.max_tokens, self.max_model_len)
        if request.output_ids and len(request.prompt_ids) + len(request.output_ids) >= limit:
            self._given_up.append(Output(request.request_id, finish_reason="length"))
            return
        sequence = Sequence(
            request,
            seed=(self._seeds.getrandbits(64) if seed is None else seed) & (2**64 - 1),
            arrival=next(self._arrivals),
            limit=limit,
            speculator=self._speculator(),
        )
        self.sequences[request.request_id] = sequence
        self.scheduler.add(sequence)

    def _speculator(self) -> Speculator | None:
        if not self._speculative_tokens:
            return None
        return Speculator(self._speculative_tokens, Chance(self._by_model.chance) if self._by_model else None)

    @property
    def _by_model(self) -> DraftLength | None:
        """How far a draft model drafts; None where there is none."""
        return self.drafter.length if self.drafter is not None else None

    def abort(self, request_id: str) -> None:
        """Forget a request, waiting or running, and free its blocks at once. Unknown ids are ignored."""
        sequence = self.sequences.pop(request_id, None)
        if sequence is not None:
            sequence.gone = True
            self.scheduler.remove(sequence)

    def has_work(self) -> bool:
        return bool(self.sequences or self._given_up or self._in_flight)

    def step(self) -> list[Output]:
        """Run one batch. Returns what each sequence gained.

        With async scheduling a batch is left running while the next is prepared and started behind it: what it drew
        comes back from the next call, which starts nothing where many are likely to draft once they know their tokens.

        A batch for which memory does not suffice has not been run: its newest request ends with a `failure`, and the
        others go on. With more than one rank that is raised, and so is every other failure.
        """
        started = time.perf_counter()
        self.timing = None
        finished, self._in_flight = self._in_flight, None
        if self.drafter is not None:
            self.drafter.look()
        drafts = self._worth is not None and not self._worth.compares(len(self.scheduler.running))
        rows = self.limits.drafted_rows
        waits = drafts and finished is not None and await_tokens(self.scheduler.running, rows, self._by_model)
        launched = None if waits else self._launch(drafts)
        outputs, self._given_up = self._given_up, []
        schedule_seconds = (time.perf_counter() if launched is None else launched.ready_at) - started
        collected: list[Output] = []
        if finished is not None:
            collected += self._collect(finished)
        alone = launched is not None and (finished is None or launched.stays)  # all of a step's time is this call's
        if launched is not None and launched.stays:
            launched.announce()
            self._in_flight = launched
        elif launched is not None:
            collected += self._collect(launched)
            finished = launched
        if finished is not None:
            self.timing = finished.timing(time.perf_counter() - started, schedule_seconds)
            if alone:
                self._weigh(finished, collected, self.timing.seconds)
        return outputs + collected

    def _launch(self, drafts: bool) -> StepInFlight | None:
        """Choose a batch, with drafts or not, and start it; None where there is nothing to run, or memory ran out."""
        began = self.pace.clock() if self.pace is not None else 0.0
        if self._speculative_tokens:
            rows, turn = self.limits.drafted_rows if drafts else 0, int(self.counters[metrics.ENGINE_STEPS])
            propose_drafts(self.scheduler.running, rows, turn, self._by_model)
        if self.pace is not None and self._by_model is not None:
            self.pace.before = self._by_model.seconds(*expected_passes(self.scheduler.running))
        plan = self.scheduler.schedule()
        if not plan:
            return None
        passes = DraftPasses()
        if self.drafter is not None:
            plan, passes = self.drafter.fill(plan), self.drafter.passes
        finishing = [s for s in plan if s.completes]
        stays = self._async and not passes.count and may_stay(plan)  # passes are weighed with all of their step's time
        drawn_rows = sum(len(s.draft) + 1 for s in finishing)
        batch = build_batch(plan, self.scheduler.tables, self.pool.block_size, drawn_rows if stays else 0)
        ready_at = time.perf_counter()
        computed = self._compute(plan, batch, finishing, stays)
        if computed is None:
            self._give_up_newest(plan)
            return None
        notes, drawn = computed
        for note in notes:
            note.add()
        self.scheduler.started(plan)
        prepare_drafts(plan)  # while a GPU works
        self._count_step(batch)
        if self.pace is not None:
            self.pace.started(batch, began + passes.seconds)
        timer = self.executor.timer
        return StepInFlight(finishing, drawn, stays, len(plan), len(batch.tokens), ready_at, timer, passes)

    def _compute(
        self, plan: list[Scheduled], batch: Batch, finishing: list[Scheduled], stays: bool
    ) -> tuple[list[Note], Drawn | None] | None:
        """All of a step that takes memory. No sequence changes by it; None where memory ran out."""
        try:
            logits = self.executor.run(batch)
            if logits is None:
                return [], None
            notes, drawn = prompt_notes(plan, logits), self._draw(finishing, logits)
            if drawn is not None and stays:
                self.executor.broadcast(drawn.tokens)
            return notes, drawn
        except Exception as error:
            if self.executor.group.size > 1 or not is_out_of_memory(error):
                # Other ranks are in this step's collectives, and wait there for what this one will not send; and a
                # GPU that has failed fails from now on. The process ends with it, and another one takes its place.
                raise
            # its text alone, since it keeps the step's tensors
            logger.warning("a step of %d sequences, %d tokens: %s", len(plan), len(batch.tokens), str(error))
            return None

    def _give_up_newest(self, plan: list[Scheduled]) -> None:
        """Undo a step that ran out of memory, and end the request that came last."""
        # Not before `_compute` has returned: what failed keeps its tensors for as long as its error is handled.
        self.executor.free_memory()
        self.scheduler.undo()
        request_id = max((s.sequence for s in plan), key=lambda s: s.arrival).request.request_id
        self.abort(request_id)
        self.counters.add(metrics.OUT_OF_MEMORY)
        self._given_up.append(Output(request_id, finish_reason="abort", failure="out_of_memory"))

    def _draw(self, finishing: list[Scheduled], logits: torch.Tensor) -> Drawn | None:
        """Draw what follows these sequences, and each of their drafted tokens, from the last rows of the logits."""
        rows = draft_rows(finishing)
        if not rows:
            return None
        return draw(logits[len(logits) - len(rows) :], rows, self.model.eos_token_ids, self.executor.choose_tokens)

    def _collect(self, step: StepInFlight) -> list[Output]:
        """Wait for a step, and append what it drew."""
        outputs: list[Output] = []
        sampled = self._read(step)
        if self.pace is not None:
            self.pace.ended(waited=sampled is not None or self._waits)
        if sampled is None:
            return outputs
        for scheduled, row in step.first_rows():
            output = accept(scheduled, sampled, row, self.model.eos_token_ids)
            if self.drafter is not None and scheduled.by_model:
                ended = output.finish_reason is not None
                self.drafter.checked(scheduled, max(len(output.token_ids) - 1, 0), ended)
            self._count_output(scheduled, output)
            scheduled.sequence.account.charge_output(len(output.token_ids), scheduled.sequence.request.weight)
            if output.failure is not None:
                self._give_up_broken(scheduled.sequence)
            if output.finish_reason is not None:
                self.abort(output.request_id)
            outputs.append(output)
        return outputs

    def _give_up_broken(self, sequence: Sequence) -> None:
        """The network computed no numbers for it. Other sequences have rows of their own."""
        logger.error("the logits of %s are not finite, at token %d", sequence.request.request_id, len(sequence.tokens))
        self.scheduler.withdraw(sequence)
        self.counters.add(metrics.NOT_FINITE)

    def _weigh(self, step: StepInFlight, outputs: list[Output], seconds: float) -> None:
        """Learn from a step whether drafts are worth their time. outputs: what it alone has brought."""
        if self._worth is None:
            return
        passes = step.passes
        if not (outputs and step.only_decodes):
            if self._by_model is not None and (passes.caught_up or passes.failed):
                self._worth.spent(passes.seconds - min(passes.seconds, self._by_model.seconds(passes.drew)))
            return
        if self._by_model is not None and not passes.failed:
            self._by_model.learn_cost(passes.drew, passes.seconds, seconds - passes.seconds, passes.caught_up)
        tokens = sum(len(output.token_ids) for output in outputs)
        self._worth.ended(step.sequences, step.drafted + passes.count, tokens, seconds)

    def _read(self, step: StepInFlight) -> Sampled | None:
        return step.drawn.read() if step.drawn is not None else None

    def _count_step(self, batch: Batch) -> None:
        self.counters.add(metrics.ENGINE_STEPS)
        late = self.executor.late_compilations
        self.counters.add(metrics.LATE_COMPILATIONS, late - self.counters[metrics.LATE_COMPILATIONS])
        if self._costs is not None:
            self.counters.add(metrics.READ_BYTES, float(self._costs.read_bytes(batch)))
            self.counters.add(metrics.FLOPS, float(self._costs.flops(batch)))

    def _count_output(self, scheduled: Scheduled, output: Output) -> None:
        sequence, new = scheduled.sequence, len(output.token_ids)
        if sequence.request.is_piece:
            return
        if sequence.num_new == new:  # its first
            self.counters.add(metrics.PROMPT_TOKENS, sequence.prompt_length)
        self.counters.add(metrics.GENERATION_TOKENS, new)
        if scheduled.draft:
            self.counters.add(metrics.DRAFT_TOKENS, len(scheduled.draft))
            self.counters.add(metrics.ACCEPTED_DRAFT_TOKENS, max(new - 1, 0))
        if scheduled.by_model:
            self.counters.add(metrics.MODEL_DRAFT_TOKENS, len(scheduled.draft))
            self.counters.add(metrics.ACCEPTED_MODEL_DRAFT_TOKENS, max(new - 1, 0))

    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            kv_blocks_total=self.pool.num_blocks,
            kv_blocks_used=self.pool.num_used,
            kv_blocks_cached=self.pool.num_cached,
            lacks_blocks=self.scheduler.lacks_blocks,
            oldest_waiting_seconds=self.scheduler.oldest_waiting(),
            totals=self.counters.totals(),
        )

    def check_integrity(self) -> None:
        """Raise AssertionError if a block or a sequence has leaked. Call it between steps."""
        self.scheduler.check_integrity()
        lanes = {id(s) for s in (*self.scheduler.waiting, *self.scheduler.running)}
        assert lanes == {id(s) for s in self.sequences.values()}, (
            "the engine and the scheduler know different sequences"
        )
        if not self.sequences:
            assert self.pool.num_used == 0, "blocks are held, but nothing runs"
