"""What arriving prompts ask of one engine: predicted queue delay, and the share of its time that they take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from deployments.replica.backlog import ANYBODY, Backlog, Standing

BATCH = 2
"""The class of service that is background, whatever the priority."""

MEMORY_TOKENS = 200_000
"""A step weighs 1/e of a new one after so many tokens: seconds of a busy engine, minutes of a quiet one."""
MEMORY_PROMPTS = 2_000
LEAST_SPREAD = 64.0
"""Variance of tokens a step below which they say nothing of what a token costs: decode steps alone."""
LEAST_INTERVAL_S = 0.5


class StepCost:
    """seconds = fixed + per_token * tokens of a step, by least squares over recent steps.

    Where all steps were alike, everything counts as the tokens' cost, which is too much rather than too little.
    """

    def __init__(self) -> None:
        self.fixed = 0.0
        self.per_token = 0.0
        self._steps = self._x = self._y = self._xx = self._xy = 0.0
        self._fitted = False

    def add(self, tokens: int, seconds: float) -> None:
        keep = max(1 - tokens / MEMORY_TOKENS, 0.5)
        self._steps = self._steps * keep + 1
        self._x = self._x * keep + tokens
        self._y = self._y * keep + seconds
        self._xx = self._xx * keep + tokens * tokens
        self._xy = self._xy * keep + tokens * seconds

    def fit(self) -> None:
        """Bring `fixed` and `per_token` up to date. They stay what they were where the steps do not tell."""
        if not self._x:
            return
        x, y = self._x / self._steps, self._y / self._steps
        spread = self._xx / self._steps - x * x
        per_token = (self._xy / self._steps - x * y) / spread if spread > LEAST_SPREAD else 0.0
        if per_token > 0:
            self._fitted = True
            self.per_token = min(per_token, y / x)
            self.fixed = y - self.per_token * x
        elif not self._fitted:
            self.per_token = y / x


@dataclass(eq=False)
class Prompt:
    """A sequence that is open, and its prompt, which waits until the first token comes."""

    demand: Demand
    tokens: int
    standing: Standing = ANYBODY
    waits: bool = True
    open: bool = True

    def computed(self, tokens: int) -> None:
        """The first token is there; so many of the prompt were computed for it, and the others cached."""
        if self.waits and self.open:
            self._leave_queue()
            self.demand.learn(self.tokens, tokens)

    def end(self) -> None:
        """The sequence has ended, with a token or without. Only the first call counts."""
        if not self.open:
            return
        self.open = False
        self.demand.open -= 1
        if self.waits:
            self._leave_queue()

    def _leave_queue(self) -> None:
        self.waits = False
        self.demand.backlog.remove(self.standing, self.tokens)


class Demand:
    """Of one engine. Prompts of the background (priority above 0, or the class batch) are left out.

    They wait as long as they have to.

    batched_tokens: most tokens of a step. open: sequences that run or wait. backlog: prompts of those without a first
    token, cached tokens included.

    What of a prompt is cached is known when it is computed; until then it counts with the share of recent prompts.
    """

    def __init__(self, batched_tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.open = 0
        self.backlog = Backlog()
        self.cost = StepCost()
        self._batched_tokens = batched_tokens
        self._clock = clock
        self._reported_at = clock()
        self._offered = 0
        self._utilization = 0.0
        self._prompts = self._tokens = self._computed = self._computed_squared = 0.0

    def step(self, tokens: int, seconds: float) -> None:
        """One step of the engine, of whatever it was made."""
        self.cost.add(tokens, seconds)

    def offer(self, tokens: int, priority: int = 0, service_class: int = 1) -> None:
        """A prompt came, whether or not there is room for it: what is refused is demand, too."""
        if priority <= 0 and service_class < BATCH:
            self._offered += tokens

    def prompt(self, tokens: int, priority: int = 0, standing: Standing = ANYBODY) -> Prompt:
        """A sequence that was admitted; whoever has it ends it."""
        if priority > 0 or standing.service_class >= BATCH:
            return Prompt(self, 0, open=False)
        self.open += 1
        self.backlog.add(standing, tokens)
        return Prompt(self, tokens, standing)

    def learn(self, tokens: int, computed: int) -> None:
        """So many of a prompt's tokens had to be computed."""
        keep = 1 - 1 / MEMORY_PROMPTS
        self._prompts = self._prompts * keep + 1
        self._tokens = self._tokens * keep + tokens
        self._computed = self._computed * keep + computed
        self._computed_squared = self._computed_squared * keep + computed * computed

    @property
    def computed_share(self) -> float:
        """Of recent prompts' tokens, those that were not cached; 1 while none was seen."""
        return self._computed / self._tokens if self._tokens else 1.0

    def throughput(self) -> float:
        """Prompt tokens a second of an engine whose steps are full, beside those who decode now; 0 if unknown."""
        size = self._batched_tokens
        seconds = self.cost.fixed + self.cost.per_token * size
        return max(size - (self.open - self.backlog.prompts), size / 2) / seconds if seconds else 0.0

    def wait_of(self, tokens: int, standing: Standing) -> float:
        """Predicted seconds before a new prompt of so many tokens is begun; 0 if nothing is known."""
        self.cost.fit()
        throughput = self.throughput()
        return self.backlog.before(standing, tokens) * self.computed_share / throughput if throughput else 0.0

    def report(self) -> dict[str, float]:
        """For the scaling policy. Asked for at intervals: prompts are counted from one report to the next.

        open: sequences. queue_delay: predicted seconds until what waits is computed. utilization: seconds of full
        steps that arriving prompts take a second; above 1 they are too many. residual: E[S^2] / 2 E[S] of S, the
        seconds that one prompt takes alone, which is how long whoever comes finds the one before it still at work
        (Kleinrock, Queueing Systems I, 5.2).
        """
        self.cost.fit()
        now, throughput = self._clock(), self.throughput()
        per_second = self.computed_share / throughput if throughput else 0.0
        if (elapsed := now - self._reported_at) >= LEAST_INTERVAL_S:
            self._utilization = self._offered / elapsed * per_second
            self._offered, self._reported_at = 0, now
        return {
            "open": float(self.open),
            "queue_delay": self.backlog.tokens * per_second,
            "utilization": self._utilization,
            "residual": self._residual(),
        }

    def _residual(self) -> float:
        if not self._prompts:
            return 0.0
        fixed, per_token = self.cost.fixed, self.cost.per_token
        mean, square = self._computed / self._prompts, self._computed_squared / self._prompts
        first = fixed + per_token * mean
        second = fixed * fixed + 2 * fixed * per_token * mean + per_token * per_token * square
        return second / (2 * first) if first else 0.0
