"""How long a step will take, learned from those that have ended.

A step reads all weights and every sequence's keys and values, and computes linear layers and attention scores. Each
of the four counts in tokens whose linear layers would take as long, by the roofline of `costs` (the first one as the
device's ridge: so many tokens are computed in the time in which the weights are read). On that scale their prices are
one number, seconds a token, which the first step measured gives; later steps tell them apart. So they know no device:
reading may be hidden behind computing or not, and a CPU's price of the weights may be nothing.

Prices are followed by a Kalman filter (a recursive least squares fit that forgets: Ljung, System Identification, 11).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.batch import Batch

Floats = npt.NDArray[np.float64]

NOISE = 0.1
"""Of a step's time, as a share of it."""
DRIFT = 0.03
"""Of each price from step to step, as a share of their scale."""
COMMON_DRIFT = 0.06
"""Of all prices together: a device gets slower or faster as a whole. With the noise, a step corrects four tenths of its
error, so that a new speed is known after some ten steps."""
LEAST_SECONDS = 1e-6
"""Of a step; shorter ones were not measured."""
LARGEST_ERROR = 1.0
"""Beyond twice what was expected a step counts as twice: one that was held up once says little of the next."""
LEAST_PRICE = 0.1
"""Of a token's linear layers, as a share of the scale: noise must not make tokens look free."""


FARTHEST = 2
"""How many times the tokens of the largest step measured may be planned: while all were small, reading the weights may
have hidden what tokens cost."""


@dataclass(frozen=True)
class Exchange:
    """What else a step does, in tokens whose linear layers take as long.

    weights: reading all weights. read: reading one token's keys and values. look: the scores of one token for another.
    """

    weights: float
    read: float = 0.0
    look: float = 0.0

    def parts(self, tokens: int, contexts: int, looks: int) -> Floats:
        """A step's four parts. contexts: tokens in the cache that it reads. looks: those that its tokens look at."""
        return np.array([self.weights, contexts * self.read, tokens, looks * self.look], dtype=np.float64)

    def of(self, batch: Batch) -> Floats:
        tokens = len(batch.tokens)
        return self.parts(tokens, int(batch.context_lens.sum()), int(batch.positions.sum()) + tokens)


class StepTime:
    """seconds = prices [4] @ parts [4] of a step. known: a step has been measured."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.known = False
        self._largest = 0.0
        self._prices: Floats = np.zeros(4)
        self._spread: Floats = np.zeros((4, 4))

    def seconds(self, parts: Floats) -> float:
        """Expected of a step; 0 before one was measured."""
        return float(parts @ self._prices)

    def learn(self, parts: Floats, seconds: float) -> None:
        """A step took so long."""
        if seconds < LEAST_SECONDS:
            return
        self._largest = max(self._largest, float(parts[2]))
        if not self.known:
            self.known = True
            scale = seconds / float(parts.sum())
            self._prices = np.full(4, scale)
            self._spread = np.eye(4) * scale**2
            return
        expected = self.seconds(parts)
        scale = expected / float(parts.sum())
        self._widen(scale)
        # in shares of what was expected, so that short steps count as much as long ones
        relative = parts / expected
        error = min(seconds / expected - 1, LARGEST_ERROR)
        towards = self._spread @ relative
        gain = towards / (float(relative @ towards) + NOISE**2)
        self._spread -= np.outer(gain, towards)
        self._prices = np.maximum(self._prices + gain * error, 0.0)
        self._prices[2] = max(self._prices[2], LEAST_PRICE * self.seconds(parts) / float(parts.sum()))

    def _widen(self, scale: float) -> None:
        """Prices may have changed since; yet what the steps do not tell is never less certain than at the start."""
        self._spread += np.eye(4) * (DRIFT * scale) ** 2 + np.outer(self._prices, self._prices) * COMMON_DRIFT**2
        most, found = 4 * scale**2, float(np.trace(self._spread))
        if found > most:
            self._spread *= most / found

    def tokens_within(self, seconds: float, decodes: Floats, context: int) -> float:
        """How many tokens of one prompt fit beside a step's decodes; 0 or less where those alone take too long.

        decodes: their parts, that of the weights included. context: the prompt's tokens before these.
        """
        left = seconds - self.seconds(decodes)
        token, look = float(self._prices[2]), float(self._prices[3]) * self.exchange.look
        first = token + look * context
        fit = (
            2 * left / (first + math.sqrt(max(first * first + 2 * look * left, 0.0)))
        )  # look / 2 fit² + first fit = left
        return min(fit, FARTHEST * self._largest - float(decodes[2]))
