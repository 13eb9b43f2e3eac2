"""What the answers cost: time, of GPUs too, tokens, and money."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.quality.own.record import Answer, Sitting, Spent
from deployments.team_settings import TeamsSettings

THOUSAND = 1000


@dataclass(frozen=True)
class Price:
    """USD for 1,000 tokens."""

    prompt: float
    cached: float
    output: float


def published_price() -> Price:
    """What models cost here that have no price of their own."""
    default = {name: field.default for name, field in TeamsSettings.model_fields.items()}
    prompt, output = float(default["input_price"]), float(default["output_price"])
    return Price(prompt, prompt if default["cached_price"] is None else float(default["cached_price"]), output)


@dataclass(frozen=True)
class Cost:
    """Of 1,000 gaps. seconds: in which at least one request was open. gpu_seconds: of engines' steps where the server
    tells (`measured`), else of all that time; times GPUs. tokens: None where the server does not count.
    """

    seconds: float
    gpu_seconds: float
    measured: bool
    prompt_tokens: float | None
    cached_tokens: float | None
    output_tokens: float | None
    usd: float | None


def cost(answers: Sequence[Answer], sittings: Sequence[Sitting], gpus: int, price: Price) -> Cost:
    """gpus: of an engine, or of a server that does not tell what its engines do."""
    spent, share = [answer.spent for answer in answers], THOUSAND / len(answers)
    seconds = share * open_seconds(spent)
    told = [one for one in sittings if one.engine_seconds is not None]
    steps = sum(one.engine_seconds or 0.0 for one in told)
    busy = THOUSAND * steps / sum(one.requests for one in told) if told and steps else None
    prompt, cached, output = (
        share * sum(getattr(one, name) for one in spent) for name in ("prompt_tokens", "cached_tokens", "output_tokens")
    )
    counted = prompt > 0
    dollars = ((prompt - cached) * price.prompt + cached * price.cached + output * price.output) / THOUSAND
    return Cost(
        seconds,
        gpus * (seconds if busy is None else busy),
        busy is not None,
        prompt if counted else None,
        cached if counted else None,
        output if counted else None,
        dollars if counted else None,
    )


def open_seconds(spent: Iterable[Spent]) -> float:
    """Of the union of all intervals: pauses between sittings do not count, nor does a second twice."""
    total, end = 0.0, float("-inf")
    for one in sorted(spent, key=lambda one: one.began):
        total += max(0.0, one.ended - max(one.began, end))
        end = max(end, one.ended)
    return total
