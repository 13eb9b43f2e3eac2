"""How many tokens of prompts go into a step in which somebody decodes, so that their next tokens do not come late.

A step's tokens come together: whoever decodes waits for the chunks of prompts beside them. Small chunks keep the wait
short, but read the weights more often (Agrawal et al., Sarathi-Serve, arXiv:2403.02310, choose a fixed number of
tokens; here a time is given, and the number follows from what steps have taken on this device).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from model.batch import Batch
from model.limits import FREE_ROWS, INTER_TOKEN_LATENCY, PrefillFloor
from model.scheduling.costs import StepCosts
from model.scheduling.sequence import Sequence
from model.scheduling.step_time import Exchange, Floats, StepTime
from model.statistics import EngineCounters
from monitoring import metrics

LEAST_SHARE = 1 / 4
"""Of the time that decodes take, for prompts beside them whatever the target: where that cannot be kept, or hardly,
holding prompts up would help nobody."""


@dataclass(frozen=True)
class _Started:
    """A step that was started. parts: as `Exchange` counts them; None where it does not tell what prompts cost."""

    began: float
    parts: Floats | None
    expected: float


class StepPace:
    """Keeps steps in which somebody decodes to `target` seconds, where that is possible.

    It is not where the decodes alone take nearly as long, nor for less than the floor of prompts: those always go on.
    least_taught: tokens of a step with prompts from which on its time tells what they cost; 0: any step's does.
    clock: in seconds, of any clock that does not go back. before: what is expected of a draft model's passes before the
    step that is planned, in seconds. limited: prompts would have had more of the step planned last, but for the target.
    """

    def __init__(
        self,
        target: float,
        floor: PrefillFloor,
        block_size: int,
        exchange: Exchange,
        counters: EngineCounters,
        least_taught: int,
    ) -> None:
        self.target = target
        self._least_taught = least_taught
        self.clock: Callable[[], float] = time.perf_counter
        self.before = 0.0
        self.limited = False
        self.time = StepTime(exchange)
        self._floor = floor
        self._block_size = block_size
        self._counters = counters
        self._started: deque[_Started] = deque()
        self._ended_at = -float("inf")
        self._waited = True

    @classmethod
    def on(
        cls, device: str, target: float | None, block_size: int, costs: StepCosts | None, counters: EngineCounters
    ) -> StepPace | None:
        """On a device of this type, whose default stands for a target of None; none where it is 0."""
        target = INTER_TOKEN_LATENCY[device] if target is None else target
        ridge = FREE_ROWS[device]
        exchange = costs.exchange(ridge) if costs is not None else Exchange(ridge)
        # On a GPU tokens below the ridge are free, or nearly: such steps would teach that all are. On a CPU each token
        # takes its time, and steps without prompts tell what the others take without them.
        least_taught = 0 if device == "cpu" else ridge
        return cls(target, PrefillFloor.on(device), block_size, exchange, counters, least_taught) if target else None

    def prompt_tokens(self, decoding: list[Sequence], prompts: list[Sequence]) -> int | None:
        """How many tokens of prompts fit the step beside those who decode; None: as many as there are.

        decoding: by rank. prompts: the one whose turn it is, and those that run. Decodes in the background do not slow
        down somebody's prompt.
        """
        decoding = [s for s in decoding if s.num_output]  # not the last token of a prompt
        if all(prompts[0].outranks(s) for s in decoding):
            return None
        rows = len(decoding) + sum(len(s.draft) for s in decoding)
        size = self._block_size
        floor = -(-self._floor.tokens(rows) // size) * size
        if not self.time.known:
            return floor
        context = max(s.computed for s in prompts)
        looked = sum(s.computed for s in decoding) + rows
        decodes = self.time.exchange.parts(rows, looked + context, looked)
        target = self.target - self.before
        seconds = max(target, (1 + LEAST_SHARE) * self.time.seconds(decodes))
        fits = self.time.tokens_within(seconds, decodes, context)
        if seconds > target:
            fits += size  # rounded up: steps that are all alike would not tell what tokens cost
        return max(floor, int(fits) // size * size)

    def started(self, batch: Batch, began: float) -> None:
        """A step has been started, of which the planning began at `began`; perhaps one before it still runs."""
        self._counters.add(metrics.PACED_STEPS, self.limited)
        least = self._least_taught
        teaches = not least or (batch.num_decodes < len(batch.query_lens) and len(batch.tokens) >= least)
        parts = self.time.exchange.of(batch) if teaches else None
        self._started.append(_Started(began, parts, self.time.seconds(parts) if parts is not None else 0.0))

    def ended(self, waited: bool) -> None:
        """The step that was started first has ended. waited: for the device, so that it has ended indeed."""
        step, now = self._started.popleft(), self.clock()
        seconds = now - max(step.began, self._ended_at)
        alone, self._waited = self._waited, waited  # else there is something in it of the step before
        if not waited:
            return
        self._ended_at = now
        if step.parts is None or not alone:
            return
        if step.expected:
            self._counters.add(metrics.EXPECTED_STEP_TIME, step.expected)
            self._counters.add(metrics.STEP_TIME_ERROR, abs(seconds - step.expected))
        self.time.learn(step.parts, seconds)
