"""Who asks when: a working day of people who type, a burst, a bulk job beside them. A seed makes all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.scaling.engines import Request
from benchmarks.server.typing_model import TypingModel

LINE = 30
"""Characters of a line, after which somebody may think."""


@dataclass(frozen=True)
class Sizes:
    """Tokens. prompt: mean, log-normal, clipped to 1/8 and to `most`. jump: share of requests for which all of the
    prompt is new to the cache (another file, another place, other context); typed: new tokens of the others, a block
    at least, at most two. output: mean, geometric, at most 64."""

    prompt: int
    most: int
    jump: float = 0.1
    typed: tuple[int, int] = (16, 32)
    output: int = 24


@dataclass(frozen=True)
class Bulk:
    """A job that keeps `concurrency` requests open until `count` are answered. Its prompts share nothing."""

    at: float
    count: int
    concurrency: int
    prompt: int
    output: int
    priority: int = 1


@dataclass(frozen=True)
class Trace:
    """seconds: until nobody asks any more. requests: by time; a newer one of a session ends the one before it."""

    name: str
    seconds: float
    requests: Callable[[], list[Request]]
    bulk: Bulk | None = None


def typists(
    present: Callable[[np.ndarray], np.ndarray], seconds: float, people: int, sizes: Sizes, seed: int
) -> list[Request]:
    """People who write for four minutes and do something else for four, on average, both exponential.

    present: the share of them that is at work, by the time in seconds; who is not begins nothing.
    """
    generator, model = np.random.default_rng(seed), TypingModel()
    found: list[np.ndarray] = []
    for person in range(people):
        spells = generator.exponential(240.0, size=(int(seconds / 240) + 20, 2))
        starts = np.cumsum(spells.sum(axis=1)) - spells[:, 0] - generator.uniform(0, 480)
        chosen = (starts >= 0) & (starts < seconds) & (generator.random(len(starts)) < present(starts))
        for start, length in zip(starts[chosen], spells[chosen, 0], strict=True):
            times = _pauses(generator, model, min(length, seconds - start))
            rows = np.empty((len(times), 3))
            rows[:, 0], rows[:, 1] = start + times, person
            rows[:, 2] = generator.random(len(times)) < sizes.jump
            rows[:1, 2] = 1
            found.append(rows)
    rows = np.concatenate(found)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    count = len(rows)
    prompts = np.clip(sizes.prompt * generator.lognormal(-0.125, 0.5, count), sizes.prompt // 8, sizes.most).astype(int)
    typed = generator.integers(*sizes.typed, count, endpoint=True)
    computed = np.where(rows[:, 2] > 0, prompts, np.minimum(typed, prompts))
    outputs = np.minimum(generator.geometric(1 / sizes.output, count), 64)
    columns = (rows[:, 0], rows[:, 1].astype(int), prompts, computed, outputs)
    return [Request(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]


def _pauses(generator: np.random.Generator, model: TypingModel, seconds: float) -> np.ndarray:
    """Moments at which somebody who types for so long asks: where no key came for the debounce (`typing_model`)."""
    keys = int(seconds / model.interval * 1.2) + 20
    gaps = _log_normal(generator, model.interval, model.sigma, keys)
    thinks = generator.random(keys) < model.pause_probability / LINE
    gaps[thinks] += _log_normal(generator, model.pause, model.pause_sigma, int(thinks.sum()))
    at = np.cumsum(gaps) - gaps + model.debounce
    return at[(gaps > model.debounce) & (at < seconds)]


def _log_normal(generator: np.random.Generator, mean: float, sigma: float, count: int) -> np.ndarray:
    return generator.lognormal(np.log(mean) - sigma * sigma / 2, sigma, count)


def _between(*points: tuple[float, float]) -> Callable[[np.ndarray], np.ndarray]:
    """Straight lines between (hours, share)."""
    hours, shares = zip(*points, strict=True)
    return lambda seconds: np.interp(seconds / 3600, hours, shares)


def day(sizes: Sizes, people: int, seed: int) -> Trace:
    """Eight hours: they come within the first, go within the last, and two thirds are away for lunch."""
    present = _between((0, 0.05), (1, 1), (3.5, 1), (3.75, 0.35), (4.25, 0.35), (4.5, 1), (7, 1), (8, 0.05))
    return Trace("day", 8 * 3600, lambda: typists(present, 8 * 3600, people, sizes, seed))


def burst(sizes: Sizes, people: int, seed: int) -> Trace:
    """An hour with a tenth of the people; after a quarter of it all of them come within a minute, for ten minutes.

    Whoever comes writes until all go again: the number of those who write is what is multiplied.
    """

    def requests() -> list[Request]:
        few = typists(lambda at: np.full(len(at), 0.1), 3600, people, sizes, seed)
        many = typists(lambda at: np.ones(len(at)), 1200, people * 9 // 10, sizes, seed + 1)
        comes = np.random.default_rng(seed + 2).uniform(900, 960, people)
        shifted = [
            replace(request, at=request.at - 300 + 900, session=request.session + people)
            for request in many
            if 300 <= request.at < 960 and request.at - 300 + 900 >= comes[request.session]
        ]
        return sorted([*few, *shifted], key=lambda request: request.at)

    return Trace("burst", 3600, requests)


def bulk(sizes: Sizes, people: int, seed: int, priority: int) -> Trace:
    """Two hours of people at work; after 20 minutes a job asks for thousands of long completions."""
    job = Bulk(1200, 8000, 192, min(sizes.prompt, 3000), 256, priority)
    name = "bulk" if priority > 0 else "bulk without priority"
    constant = lambda at: np.ones(len(at))  # noqa: E731
    return Trace(name, 7200, lambda: typists(constant, 7200, people // 3, sizes, seed), job)
