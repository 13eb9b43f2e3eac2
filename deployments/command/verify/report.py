"""The verdict in plain words, and the report of it, as JSON and as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from deployments.command.verify.judging import (
    FLOOR,
    LARGEST_TIMES,
    OVERALL_TIMES,
    PROMPT_TIMES,
    RMS_TIMES,
    CaseVerdict,
    Error,
    Judgement,
)
from deployments.command.verify.movement import Foreseen, Movement
from deployments.command.verify.readings import Drafts

_MOST_FAULTS = 20


@dataclass(frozen=True)
class Report:
    """spelling: how the tokenizers differ, in words. spelled: texts that were compared. types: of exact reading and
    engine. settings, checkpoint, versions: as they are to be written down. path: what computed the engine's steps.
    draft_model: as checkpoint; None where there is none. drafts: of all cases."""

    judgement: Judgement
    spelling: list[str]
    spelled: int
    foreseen: Foreseen | None
    movement: Movement | None
    exact: str
    served: str
    quantization: str
    settings: dict[str, Any]
    checkpoint: dict[str, Any]
    versions: dict[str, str]
    machine: list[str]
    path: dict[str, Any]
    seconds: float
    draft_model: dict[str, Any] | None = None
    drafts: Drafts = field(default_factory=Drafts)

    @property
    def faults(self) -> list[str]:
        return [*self.spelling, *self.judgement.faults]

    @property
    def agrees(self) -> bool:
        return not self.faults

    def verdict(self) -> str:
        """A few sentences."""
        cases = self.judgement.cases
        continuations = [case for case in cases if case.tokens]
        total = sum(case.continuations for case in continuations)
        parted = sum(case.parted for case in continuations)
        positions = sum(case.positions for case in cases)
        engine, theirs = self.judgement.engine, self.judgement.transformers
        rounded = self.quantization != "none"
        model = f"{self.served}, products in {self.quantization}" if rounded else self.served
        exact = f"{self.exact} with the same 8 bits" if rounded else self.exact
        sentences = [
            "The engine computes what transformers computes."
            if self.agrees
            else "The engine does NOT compute what transformers computes.",
            f"At {positions:,} positions its log-probabilities ({model}) are off from {exact} by "
            f"{_nats(engine.rms)} nats (root mean square; {_nats(engine.largest)} at most where a token is likelier "
            f"than 1 in 100), and those of "
            f"transformers in {self.served} are off by {_nats(theirs.rms)} ({_nats(theirs.largest)}).",
            f"{total - parted} of {total} continuations are, token by token, what that finds likeliest"
            + (f"; {parted} part from it{_ties(cases, self.judgement.tie)}." if parted else "."),
        ]
        if self.spelled:
            same = "the same ids" if not self.spelling else "different ids"
            sentences.append(f"Both tokenizers give {self.spelled} texts {same}.")
        return " ".join(sentences)

    def effect(self) -> str | None:
        """What 8 bits change, which is no fault."""
        if (moved := self.movement) is None:
            return None
        return (
            f"{self.quantization} itself moves the model: at {moved.positions:,} positions of code the likeliest token "
            f"stays the same at {moved.same:.1%}, the distribution is {moved.divergence:.4f} nats away "
            f"({moved.largest:.2g} at most), and perplexity is {moved.perplexity:.4g} instead of "
            f"{moved.plain_perplexity:.4g}. That is what the setting costs, and not counted above."
        )

    def json(self) -> dict[str, Any]:
        """Of departures the first of each case; a number that is none is null."""
        written: dict[str, Any] = _plain(self._fields())
        for case in written["cases"]:
            del case["departures"][_MOST_FAULTS:]
        return written

    def _fields(self) -> dict[str, Any]:
        judgement = self.judgement
        return {
            "agrees": self.agrees,
            "verdict": self.verdict(),
            "faults": self.faults,
            "checkpoint": self.checkpoint,
            "draft_model": self.draft_model,
            "drafts": asdict(self.drafts),
            "settings": self.settings,
            "engine": self.path,
            "machine": self.machine,
            "versions": self.versions,
            "exact": self.exact,
            "served": self.served,
            "error_nats": {"engine": asdict(judgement.engine), "transformers": asdict(judgement.transformers)},
            "limits": {
                "overall_rms_times": OVERALL_TIMES,
                "rms_times": RMS_TIMES,
                "prompt_rms_times": PROMPT_TIMES,
                "largest_times": LARGEST_TIMES,
                "floor_nats": FLOOR,
                "tie_nats": judgement.tie,
            },
            "cases": [asdict(case) for case in judgement.cases],
            "tokenizer": {"texts": self.spelled, "differences": self.spelling},
            "perplexity": None if self.foreseen is None else asdict(self.foreseen),
            "quantization": None if self.movement is None else asdict(self.movement),
            "seconds": round(self.seconds, 1),
        }

    def markdown(self) -> str:
        """A page to keep."""
        title = "agrees" if self.agrees else "DISAGREES"
        parts = [f"# starcoder verify: {title}", self.verdict()]
        if self.faults:
            parts.append(_list(self.faults[:_MOST_FAULTS]))
            if (more := len(self.faults) - _MOST_FAULTS) > 0:
                parts.append(f"And {more} more.")
        if (effect := self.effect()) is not None:
            parts.append(effect)
        parts.append(_table(self.judgement.cases))
        if (seen := self.foreseen) is not None:
            parts.append(
                f"Perplexity of {seen.positions:,} tokens of code: engine {seen.engine:.5g}, transformers in "
                f"{self.served} {seen.served:.5g}, in {self.exact} {seen.exact:.5g}."
            )
        drafts = self.drafts
        told = [
            f"checkpoint: {_identified(self.checkpoint)}",
            *([] if self.draft_model is None else [f"draft model: {_identified(self.draft_model)}"]),
            f"drafts: {drafts.lookup:,} tokens by prompt lookup, {drafts.lookup_right:,} of them right; "
            f"{drafts.model:,} by a draft model, {drafts.model_right:,} of them right",
            "settings: " + ", ".join(f"{name}={value}" for name, value in self.settings.items()),
            "engine: " + ", ".join(f"{name}={value}" for name, value in self.path.items() if value is not None),
            "machine: " + "; ".join(self.machine),
            "versions: " + ", ".join(f"{name} {version}" for name, version in self.versions.items()),
            f"{self.seconds:.0f} s",
        ]
        return "\n\n".join([*parts, _list(told)]) + "\n"


def _plain(value: Any) -> Any:
    """As JSON can have it."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _identified(checkpoint: dict[str, Any]) -> str:
    revision = f", revision {checkpoint['revision']}" if "revision" in checkpoint else ""
    return f"SHA-256 {checkpoint['sha256']}{revision}"


def _nats(value: float) -> str:
    return f"{value:.2g}"


def _error(error: Error) -> str:
    return f"{_nats(error.rms)} ({_nats(error.largest)})"


def _ties(cases: Sequence[CaseVerdict], tie: float) -> str:
    """What there is to say of the places where continuations part."""
    margins = [departure.margin for case in cases for departure in case.departures]
    far = sum(margin > tie for margin in margins)
    if not far:
        return f" at near ties, of two tokens that are {_nats(max(margins))} nats apart at most"
    return f", at {far} of {len(margins)} tokens by more than {_nats(tie)} nats"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(cases: Sequence[CaseVerdict]) -> str:
    rows = [
        "| case | prompts | positions | engine, nats | transformers | parted | |",
        "| --- " + "| ---: " * 5 + "| --- |",
    ]
    for case in cases:
        if not case.continuations and not case.faults:
            rows.append(f"| {case.name} | | | | | | {case.note or ''} |")
            continue
        cells = [
            case.name,
            str(case.prompts),
            f"{case.positions:,}",
            _error(case.engine),
            _error(case.transformers),
            f"{case.parted} of {case.continuations}",
            "DISAGREES" if case.faults else case.note or "agrees",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
