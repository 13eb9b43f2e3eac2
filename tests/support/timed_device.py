"""An engine on a device of a given speed, in its own time: every step is planned as ever, and nothing is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import torch

from model.batch import Batch
from model.drawing import choose
from model.engine import Engine
from model.executor import Executor
from model.request import Request, SamplingParams
from model.sampler import Sampled
from model.step import StepInFlight

VOCABULARY = 8
BLOCK = 16


@dataclass
class Speed:
    """What a step takes. weights: seconds to read them; token, context, look: of each token, in seconds too.

    overlaps: reading the weights is hidden behind computing, or the other way round. times: slower than that.
    """

    weights: float = 0.0131
    token: float = 52e-6
    context: float = 8e-9
    look: float = 3e-9
    overlaps: bool = True
    times: float = 1.0

    def seconds(self, tokens: int, contexts: int, looks: int) -> float:
        linear = self.token * tokens
        both = max(self.weights, linear) if self.overlaps else self.weights + linear
        return self.times * (both + self.context * contexts + self.look * looks)

    def of(self, batch: Batch) -> float:
        tokens = len(batch.tokens)
        return self.seconds(tokens, int(batch.context_lens.sum()), int(batch.positions.sum()) + tokens)


@dataclass(frozen=True)
class Step:
    """Of a simulated engine. ended_at: by the device's clock, `seconds` after it began. decodes, tokens: its size."""

    ended_at: float
    seconds: float
    decodes: int
    tokens: int
    contexts: int


class TimedDevice:
    """Runs steps one after the other, in the order in which they were started. now: what the host's clock says."""

    def __init__(self, speed: Speed, device: str, num_blocks: int, max_model_len: int) -> None:
        self.runner = SimpleNamespace(
            model=SimpleNamespace(eos_token_ids=(0,)),
            max_model_len=max_model_len,
            num_kv_blocks=num_blocks,
            block_size=BLOCK,
            device=torch.device(device),
        )
        self.group = SimpleNamespace(size=1)
        self.timer = SimpleNamespace(seconds=lambda: 0.0)
        self.late_compilations = 0
        self.choose_tokens = choose
        self.speed = speed
        self.now = self._free_at = 0.0
        self.steps: list[Step] = []
        self.unread: deque[Step] = deque()

    def run(self, batch: Batch) -> torch.Tensor | None:
        seconds = self.speed.of(batch)
        self._free_at = max(self.now, self._free_at) + seconds
        if self.runner.device.type == "cpu":
            self.now = self._free_at
        contexts = int(batch.context_lens.sum())
        self.steps.append(Step(self._free_at, seconds, batch.num_decodes, len(batch.tokens), contexts))
        self.unread.append(self.steps[-1])
        rows = len(batch.logit_rows)
        return torch.eye(1, VOCABULARY).roll(1).expand(rows, -1).clone() if rows else None

    def broadcast(self, tokens: torch.Tensor) -> None: ...
    def free_memory(self) -> None: ...


@dataclass
class TimedEngine:
    """An engine, its device, and when each request got its tokens."""

    engine: Engine
    device: TimedDevice
    tokens_at: dict[str, list[float]] = field(default_factory=dict)

    def add(self, request_id: str, length: int, max_tokens: int, priority: int = 0, tenant: str = "") -> None:
        prompt = [2 + (hash(request_id) + i) % 5 for i in range(length)]
        params = SamplingParams(max_tokens, temperature=0.0, ignore_eos=True)
        self.engine.add(Request(request_id, prompt, params, priority, tenant=tenant))

    def step(self) -> None:
        for output in self.engine.step():
            self.tokens_at.setdefault(output.request_id, []).extend([self.device.now] * len(output.token_ids))

    def run(self, until: Callable[[], bool] = lambda: False, most: int = 100_000) -> None:
        """Step until nothing is left, or `until`."""
        for _ in range(most):
            if not self.engine.has_work() or until():
                return
            self.step()
        raise AssertionError("the engine does not finish")


def timed_engine(
    speed: Speed, device: str = "cuda", num_blocks: int = 20_000, max_model_len: int = 8192, **options: Any
) -> TimedEngine:
    """Without a prefix cache: its prompts are alike. Steps overlap on "cuda" if nothing else is said."""
    timed = TimedDevice(speed, device, num_blocks, max_model_len)
    engine = Engine(
        cast(Executor, timed),
        **{"async_scheduling": device == "cuda", "enable_prefix_caching": False, **options},
    )
    read = engine._read

    def waits(step: StepInFlight) -> Sampled | None:
        one = timed.unread.popleft()
        if step.drawn is not None:
            timed.now = max(timed.now, one.ended_at)
        return read(step)

    engine._read = waits  # type: ignore[method-assign]
    if engine.pace is not None:
        engine.pace.clock = lambda: timed.now
    return TimedEngine(engine, timed)
