"""Our engine in process: one rank, the prefix cache off, as for everyone; drafts only where a text is replayed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SPECULATIVE_TOKENS = 8


def load(spec: dict[str, Any]) -> Callable[[list[list[int]], int], list[list[int]]]:
    sys.path.insert(0, str(Path(__file__).parents[2]))  # where it is not installed
    from benchmarks.engine.speculation import ReplayEngine
    from model.config import EngineConfig
    from model.process.rank import Rank
    from model.request import Request, SamplingParams

    config = EngineConfig(
        model=spec["checkpoint"],
        dtype=spec["dtype"],
        device="cpu",
        num_threads=spec["threads"],
        max_num_seqs=spec["max_requests"],
        kv_cache_memory=2 << 30,
        enable_prefix_caching=False,
        speculative_tokens=0,
    )
    rank = Rank(config)
    rank.load()
    engine = rank.engine()

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        answers: list[list[int]] = [[] for _ in prompts]
        for number, prompt in enumerate(prompts):
            engine.add(Request(str(number), prompt, params))
        while engine.has_work():
            for output in engine.step():
                answers[int(output.request_id)] += output.token_ids
        return answers

    writer = ReplayEngine(
        engine.executor, max_num_seqs=1, enable_prefix_caching=False, speculative_tokens=SPECULATIVE_TOKENS
    )
    generate.replay = lambda prompt, output: writer.write(prompt, output)  # type: ignore[attr-defined]
    return generate
