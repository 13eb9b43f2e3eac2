"""Makes steps of a toy engine run out of memory: in the network, in a prompt's log-probabilities, or in the draw."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch

from model import engine as module
from model.engine import Engine

PLACES = ("forward", "notes", "draw")


class OutOfMemory:
    """A block in which the engine's steps fail, and leave nonsense where they would have written to the cache.

    failures: places, by the number of the step, from 0 on. ended: the newest request of each step that failed, by id.
    error: what they fail with; None: what PyTorch raises when a GPU's memory runs out.
    """

    def __init__(self, engine: Engine, failures: Mapping[int, str], error: Exception | None = None) -> None:
        self._error = error
        self.ended: list[str] = []
        self._engine = engine
        self._failures = failures
        self._step = -1
        self._stack = ExitStack()
        self._executor: Any = engine.executor
        self._schedule, self._run, self._draw = engine.scheduler.schedule, self._executor.run, engine._draw
        self._notes = module.prompt_notes

    def __enter__(self) -> OutOfMemory:
        for target, name, replacement in (
            (self._engine.scheduler, "schedule", self._noting_schedule),
            (self._executor, "run", self._failing_run),
            (self._engine, "_draw", self._failing("draw", self._draw)),
            (module, "prompt_notes", self._failing("notes", self._notes)),
        ):
            self._stack.enter_context(mock.patch.object(target, name, replacement))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _noting_schedule(self) -> Any:
        self._plan = self._schedule()
        self._step += bool(self._plan)
        return self._plan

    def _failing_run(self, batch: Any) -> Any:
        self._slots = batch.slots
        logits = self._run(batch)
        # a step that wants no logits has nothing else that could fail
        if self._failures.get(self._step) == "forward" or (logits is None and self._step in self._failures):
            self._fail()
        return logits

    def _failing(self, place: str, work: Any) -> Any:
        def failing(*arguments: Any) -> Any:
            done = work(*arguments)
            if self._failures.get(self._step) == place:
                self._fail()
            return done

        return failing

    def _fail(self) -> None:
        self._executor.slots[self._slots] = -7
        newest = max((s.sequence for s in self._plan), key=lambda s: s.arrival)
        self.ended.append(newest.request.request_id)
        raise self._error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
