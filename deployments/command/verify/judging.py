"""Whether the engine computes what transformers computes.

The measure is what transformers itself loses in the type that is served, from the exact reading: float32, or float64
where float32 is served. Two networks that round at different places are not alike in their last digits, but as far from
the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deployments.command.verify.readings import Bools, CaseRun, Floats, Read, Reading, Role, Text, Written

OVERALL_TIMES = 1.5
"""What all cases together may be off by, root mean square, by what transformers is at the same positions."""
RMS_TIMES = 2.0
"""What a case may, of which there are fewer positions."""
PROMPT_TIMES = 3.0
"""What one prompt may, of which there are few positions, by the larger of this and what transformers is at all."""
LARGEST_TIMES = 4.0
"""What the log-probability of any likely token may, by the largest of transformers'."""
TIE_TIMES = 2.0
"""How far two tokens may be apart that change places, by how much closer or further transformers brings the likeliest
two at any position."""
LIKELY = np.log(0.01)
"""Of a token that one can expect. Of others, rounding may move the logarithm far."""
FLOOR = 1e-4
"""Nats: less is not looked at."""


@dataclass(frozen=True)
class Error:
    """Of log-probabilities, in nats: root mean square, and the largest of a likely token."""

    rms: float = 0.0
    largest: float = 0.0

    @classmethod
    def of(cls, differences: Floats, likely: Bools) -> Error:
        """What is no number counts as infinitely large. likely: which are of such a token."""
        if not differences.size:
            return cls()
        sizes = _sizes(differences)
        return cls(float(np.sqrt(np.mean(sizes**2))), float(sizes[likely].max(initial=0.0)))

    @classmethod
    def together(cls, parts: Sequence[tuple[Floats, Bools]]) -> Error:
        if not parts:
            return cls()
        differences, likely = (np.concatenate([np.ravel(part) for part in each]) for each in zip(*parts, strict=True))
        return cls.of(differences, likely)


@dataclass(frozen=True)
class Departure:
    """A token that is not the one that the exact reading holds for likeliest, given the same before it.

    at: its place in prompt and output. margin: nats between the two.
    """

    prompt: str
    at: int
    wrote: int
    likeliest: int
    margin: float


@dataclass(frozen=True)
class Continuation:
    """One prompt of a case. differences, rounding [n, k + 1]: of the engine and of transformers in the served type,
    from the exact reading, which holds some tokens for likely. swing: how much closer or further the latter brings the
    likeliest two, at most. unlikely: tokens that were not the likeliest even by the engine's own account. senseless:
    log-probabilities of the engine that are no finite numbers, whether or not they are compared."""

    written: Written
    differences: Floats
    rounding: Floats
    likely: Bools
    swing: float
    departures: list[Departure] = field(default_factory=list)
    unlikely: int = 0
    senseless: int = 0


@dataclass(frozen=True)
class CaseVerdict:
    """faults: in words, empty where the case agrees. note: what it could not show, and why."""

    name: str
    prompts: int = 0
    positions: int = 0
    tokens: int = 0
    engine: Error = Error()
    transformers: Error = Error()
    departures: list[Departure] = field(default_factory=list)
    continuations: int = 0
    parted: int = 0
    faults: list[str] = field(default_factory=list)
    note: str | None = None


@dataclass(frozen=True)
class Judgement:
    """All cases, and all of them together. tie: nats that two tokens may be apart and change places."""

    cases: list[CaseVerdict]
    engine: Error
    transformers: Error
    tie: float

    @property
    def faults(self) -> list[str]:
        faults = [f"{case.name}: {fault}" for case in self.cases for fault in case.faults]
        if not self.engine.rms <= (limit := OVERALL_TIMES * self.transformers.rms + FLOOR):
            faults.append(f"all cases: {_off(self.engine, limit)}")
        return faults


class Texts:
    """What transformers has to read of what the engine wrote: a text that begins another one is read with it."""

    def __init__(self, runs: Sequence[CaseRun]) -> None:
        first: dict[tuple[int, ...], int] = {}
        for written in (w for run in runs for w in run.written if len(w.own)):
            first[written.tokens] = min(written.first, first.get(written.tokens, written.first))
        self.texts: list[Text] = []
        self._numbers: dict[tuple[int, ...], int] = {}
        longer: Text | None = None
        # From the last to the first in order, what begins another text comes right behind one that it begins.
        for tokens in sorted(first, reverse=True):
            if longer is not None and longer.tokens[: len(tokens)] == tokens:
                longer = self.texts[-1] = Text(longer.tokens, min(longer.first, first[tokens]))
            else:
                longer = Text(tokens, first[tokens])
                self.texts.append(longer)
            self._numbers[tokens] = len(self.texts) - 1

    def rows(self, written: Written) -> tuple[int, slice]:
        """The number of the text that it is in, and which of the text's positions are its own."""
        number = self._numbers[written.tokens]
        start = written.first - self.texts[number].first
        return number, slice(start, start + len(written.own))


def judge(runs: Sequence[CaseRun], texts: Texts, readings: Sequence[Reading]) -> Judgement:
    """readings: of the texts, with the passes exact and served.

    Raises RuntimeError where a reading is no yardstick.
    """
    _check_finite(readings)
    found = [[_continuation(w, texts, readings) for w in run.written if len(w.own)] for run in runs]
    whole = [c for continuations in found for c in continuations]
    transformers = Error.together([(c.rounding, c.likely) for c in whole])
    tie = TIE_TIMES * max((c.swing for c in whole), default=0.0) + FLOOR
    cases = [_verdict(run, one, transformers, tie) for run, one in zip(runs, found, strict=True)]
    return Judgement(cases, Error.together([(c.differences, c.likely) for c in whole]), transformers, tie)


_READ_AS: dict[Role, str] = {
    "exact": "in the exact reading",
    "served": "in the type that is served",
    "unquantized": "without 8 bits",
}


def _check_finite(readings: Sequence[Reading]) -> None:
    """What is measured by something infinite is never too large."""
    for role, words in _READ_AS.items():
        reads = [reading.passes[role] for reading in readings if role in reading.passes]
        finite = [np.isfinite(read.own) & np.isfinite(read.logprobs).all(axis=1) for read in reads]
        if (broken := sum(int((~each).sum()) for each in finite)) > 0:
            raise RuntimeError(
                f"transformers' own log-probabilities, {words}, are no finite numbers at {broken:,} of "
                f"{sum(map(len, finite)):,} positions: the engine cannot be measured by them"
            )


def _sizes(differences: Floats) -> Floats:
    return np.nan_to_num(np.abs(differences.astype(np.float64)), nan=np.inf, posinf=np.inf)


def _continuation(written: Written, texts: Texts, readings: Sequence[Reading]) -> Continuation:
    number, rows = texts.rows(written)
    reading = readings[number]
    exact, served = (_stack(reading.passes[role], rows) for role in ("exact", "served"))
    ours = np.concatenate([written.own[:, None], _at(written, reading.ids[rows], exact[:, 1:])], axis=1)
    likeliest = reading.passes["exact"].likeliest[rows]
    best = exact[:, 1:].max(axis=1)
    departures = []
    drawn = range(len(written.prompt.ids), len(written.tokens))
    for at in drawn:
        row, wrote = at - written.first, written.tokens[at]
        if wrote != likeliest[row] and best[row] > exact[row, 0]:
            margin = float(best[row] - exact[row, 0])
            departures.append(Departure(written.prompt.name, at, wrote, int(likeliest[row]), margin))
    outputs = slice(drawn.start - written.first, None)
    unlikely = int((written.own[outputs] < written.logprobs[outputs, 0]).sum())
    senseless = sum(int((~np.isfinite(values)).sum()) for values in (written.own, written.logprobs))
    rounding = served - exact
    swing = float(np.ptp(rounding[:, 1:3], axis=1).max())
    return Continuation(written, ours - exact, rounding, exact > LIKELY, swing, departures, unlikely, senseless)


def _stack(read: Read, rows: slice) -> Floats:
    return np.concatenate([read.own[rows, None], read.logprobs[rows]], axis=1)


def _at(written: Written, wanted: np.ndarray, exact: Floats) -> Floats:
    """The engine's log-probabilities of the wanted tokens [n, k]. One that is not among its likeliest is less likely
    than all of these: it is taken for as likely as it can be, or for right."""
    found = np.minimum(exact, written.logprobs[:, -1:].astype(np.float64))
    for row in range(len(wanted)):
        places = {int(id): place for place, id in enumerate(written.ids[row])}
        for column, id in enumerate(wanted[row]):
            if (place := places.get(int(id))) is not None:
                found[row, column] = written.logprobs[row, place]
    return found


def _verdict(run: CaseRun, found: list[Continuation], transformers: Error, tie: float) -> CaseVerdict:
    case = run.case
    if case.why_not is not None:
        return CaseVerdict(case.name, note=f"not tried: {case.why_not}")
    engine = Error.together([(c.differences, c.likely) for c in found])
    own = Error.together([(c.rounding, c.likely) for c in found])
    departures = [d for c in found for d in c.departures]
    faults = [fault for c in found for fault in _faults(c, transformers, tie)]
    faults += [f"{w.prompt.name}: the engine gave up ({w.failure})" for w in run.written if w.failure is not None]
    if run.broken is not None:
        faults.append(f"the engine lost track of its cache: {run.broken}")
    if not engine.rms <= (limit := RMS_TIMES * own.rms + FLOOR):
        faults.append(f"all prompts: {_off(engine, limit)}")
    return CaseVerdict(
        case.name,
        prompts=len(case.prompts),
        positions=sum(len(c.written.own) for c in found),
        tokens=sum(len(c.written.output) for c in found),
        engine=engine,
        transformers=own,
        departures=departures,
        continuations=len(found),
        parted=sum(bool(c.departures) for c in found),
        faults=list(dict.fromkeys(faults)),
        note=", ".join(run.missing) or None,
    )


def _faults(one: Continuation, transformers: Error, tie: float) -> list[str]:
    name, faults = one.written.prompt.name, []
    error, own = Error.of(one.differences, one.likely), Error.of(one.rounding, one.likely)
    if not error.rms <= (limit := PROMPT_TIMES * max(own.rms, transformers.rms) + FLOOR):
        faults.append(f"{name}: {_off(error, limit)}")
    if not error.largest <= (limit := LARGEST_TIMES * transformers.largest + FLOOR):
        beyond = ((_sizes(one.differences) > limit) & one.likely).any(axis=1)
        at = one.written.first + int(np.argmax(beyond))
        faults.append(
            f"{name}: a likely token is off by {error.largest:.2g} nats, where {limit:.2g} may be rounding; first at "
            f"token {at}"
        )
    for departure in one.departures:
        if not departure.margin <= tie:
            faults.append(
                f"{name}: token {departure.at} is {departure.wrote} instead of {departure.likeliest}, which is "
                f"likelier by {departure.margin:.2g} nats, where {tie:.2g} may be rounding"
            )
            break
    if one.senseless:
        faults.append(f"{name}: {one.senseless} of the engine's log-probabilities are no finite numbers")
    if one.unlikely:
        faults.append(f"{name}: {one.unlikely} tokens are not the likeliest by the engine's own account")
    return faults


def _off(error: Error, limit: float) -> str:
    return f"off by {error.rms:.2g} nats, root mean square, where {limit:.2g} may be rounding"
