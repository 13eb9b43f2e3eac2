"""How a person types, as a schedule that is known before anything is sent.

The model, all of it drawn from one seed:

- A keystroke adds one character. A newline brings the indentation of the next line with it, as editors do.
- Intervals between keystrokes are log-normal. Dhakal et al. (CHI 2018, 136 million keystrokes of 168,000 people) report
  a mean of 239 ms; that intervals of free text are log-normal is the finding of Gonzalez et al. (2021, "On the shape
  of timings distributions in free-text keystroke dynamics profiles"). `sigma` (of the logarithm) is our choice.
- After a newline, with a probability, the person thinks: another log-normal pause is added. These numbers are our
  assumption; there is no published distribution for code that we know of.
- A completion is asked for when no key came for `debounce` seconds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class TypingModel:
    """Means in seconds. sigma: standard deviation of the logarithm of an interval; the same for pauses."""

    interval: float = 0.239
    sigma: float = 0.6
    pause: float = 2.0
    pause_sigma: float = 0.8
    pause_probability: float = 0.3
    debounce: float = 0.35

    def __post_init__(self) -> None:
        if min(self.interval, self.pause) <= 0 or min(self.sigma, self.pause_sigma, self.debounce) < 0:
            raise ValueError("interval and pause must be above 0; sigma, pause_sigma and debounce not below it")
        if not 0 <= self.pause_probability <= 1:
            raise ValueError("pause_probability must be from 0 to 1")


@dataclass(frozen=True)
class Keystroke:
    """at: seconds from the start of the session; typed: characters of the text that stand there afterwards."""

    at: float
    typed: int


@dataclass(frozen=True)
class Pause:
    """A moment at which a completion is asked for.

    at: seconds from the start; typed: characters that stand before the cursor by then; next_key: when the person
    goes on typing, None after the last keystroke.
    """

    at: float
    typed: int
    next_key: float | None


def strokes(text: str) -> Iterator[int]:
    """How many characters each keystroke adds."""
    position = 0
    while position < len(text):
        end = position + 1
        if text[position] == "\n":
            while end < len(text) and text[end] in " \t":
                end += 1
        yield end - position
        position = end


def keystrokes(text: str, model: TypingModel, seed: int | str) -> list[Keystroke]:
    """The whole session, ascending in time. The same arguments give the same schedule on every machine."""
    generator = random.Random(seed)
    at, typed, line_starts = 0.0, 0, False
    found = []
    for count in strokes(text):
        at += _log_normal(generator, model.interval, model.sigma)
        if line_starts and generator.random() < model.pause_probability:
            at += _log_normal(generator, model.pause, model.pause_sigma)
        line_starts = text[typed] == "\n"
        typed += count
        found.append(Keystroke(at, typed))
    return found


def _log_normal(generator: random.Random, mean: float, sigma: float) -> float:
    """With this mean: the logarithm's mean is log(mean) - sigma^2 / 2."""
    return generator.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma)


def pauses(session: list[Keystroke], debounce: float) -> list[Pause]:
    """Where the next key is further away than `debounce`; the end of the session always is."""
    following = [*(key.at for key in session), None][1:]
    return [
        Pause(key.at + debounce, key.typed, later)
        for key, later in zip(session, following, strict=True)
        if later is None or later - key.at > debounce
    ]
