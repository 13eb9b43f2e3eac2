"""Random loads for the toy engine, and what each of their requests has to be answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import strategies as st

from model.engine import Engine
from model.request import Output, Request, SamplingParams
from tests.support.toy_engine import naive, naive_prompt_logprobs, run_to_end, tokens_of

# few distinct prompts with long common prefixes, so that the cache is hit, shared and fought over
prompts = st.builds(
    lambda base, cut, tail: (base * 40)[:cut] + tail,
    st.sampled_from([[1], [1, 2, 3], [7, 8]]),
    st.integers(1, 40),
    st.lists(st.integers(1, 3), max_size=3),
)


@dataclass(frozen=True)
class Arrival:
    """gap: steps until the next one. abort_after: steps; None: it is not aborted. whose: tenant, weight and class.

    barred: tokens that are not drawn.
    """

    prompt: list[int]
    max_tokens: int
    priority: int
    gap: int
    abort_after: int | None
    prompt_logprobs: int | None
    whose: tuple[str, float, int] = ("", 1.0, 1)
    barred: tuple[int, ...] = ()

    def request(self, request_id: str = "") -> Request:
        """Greedy."""
        params = SamplingParams(max_tokens=self.max_tokens, temperature=0, prompt_logprobs=self.prompt_logprobs)
        tenant, weight, service_class = self.whose
        return Request(
            request_id,
            self.prompt,
            params,
            self.priority,
            tenant=tenant,
            weight=weight,
            service_class=service_class,
            barred_ids=self.barred,
        )


arrivals = st.lists(
    st.builds(
        Arrival,
        prompts,
        max_tokens=st.integers(1, 20),
        priority=st.integers(0, 2),
        gap=st.integers(0, 6),
        abort_after=st.one_of(st.none(), st.integers(0, 8)),
        prompt_logprobs=st.sampled_from([None, None, 0, 2]),
        whose=st.sampled_from([("", 1.0, 1), ("", 1.0, 1), ("a", 1.0, 1), ("a", 1.0, 2), ("b", 3.0, 1), ("b", 3.0, 0)]),
        barred=st.sampled_from([(), (0, 1, 2, 3, 4), (0, 1, 2, 3, 4), (7,)]),
    ),
    min_size=1,
    max_size=14,
)

engine_options = st.fixed_dictionaries(
    {
        "num_blocks": st.integers(16, 40),
        "max_num_seqs": st.integers(1, 6),
        "max_num_batched_tokens": st.integers(4, 40),
        "enable_prefix_caching": st.booleans(),
        "speculative_tokens": st.sampled_from([0, 0, 3, 10]),
        "async_scheduling": st.booleans(),
        "prompt_rows": st.sampled_from([1, 2, 5, 256]),
        "target_inter_token_latency_s": st.sampled_from([0.0, 1e-9]),
    }
)


@dataclass
class Load:
    """requests, outputs: by id. aborted: ids."""

    requests: dict[str, Request] = field(default_factory=dict)
    outputs: dict[str, list[Output]] = field(default_factory=dict)
    aborted: set[str] = field(default_factory=set)

    def check(self, without: frozenset[str] = frozenset()) -> None:
        """Every request got what it would get alone; those that were aborted, and `without`, its beginning."""
        for request_id, request in self.requests.items():
            outputs = self.outputs.get(request_id, [])
            expected, got = naive(request), tokens_of(outputs)
            if request_id in self.aborted | without:
                assert got == expected[: len(got)]
            else:
                assert got == expected
                assert outputs[-1].finish_reason in ("stop", "length")
            if got and request.params.prompt_logprobs is not None:
                assert outputs[0].prompt_logprobs == naive_prompt_logprobs(request)


def run_load(engine: Engine, arrivals: list[Arrival], after_step: Callable[[], None] = lambda: None) -> Load:
    """Requests arrive between steps; some are aborted some steps later. Integrity is checked after each."""
    load = Load()
    pending_aborts: list[tuple[int, str]] = []
    step = 0
    for number, one in enumerate(arrivals):
        request = one.request(str(number))
        load.requests[request.request_id] = request
        engine.add(request)
        if one.abort_after is not None:
            pending_aborts.append((step + one.abort_after, request.request_id))
        for _ in range(one.gap):
            for output in engine.step():
                load.outputs.setdefault(output.request_id, []).append(output)
            engine.check_integrity()
            after_step()
            step += 1
            for when, request_id in [p for p in pending_aborts if p[0] <= step]:
                pending_aborts.remove((when, request_id))
                load.aborted.add(request_id)
                engine.abort(request_id)
                engine.check_integrity()
    run_to_end(engine, load.outputs, after_step)
    assert engine.pool.num_used == 0
    return load
