"""Tenants who wait share the engine by their weight; classes go before one another; nobody starves."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fairness.simulator import BLOCK, Ask, Simulation
from benchmarks.scaling.engines import EngineModel
from model.engine import Engine
from model.request import LEAST_WEIGHT, MOST_WEIGHT, Request, SamplingParams
from model.scheduling.account import OUTPUT_TOKEN, PROMPT_TOKEN, Account, service
from model.scheduling.fairness import MOST_OVERTAKEN
from model.scheduling.planning import MOST_PASSES
from model.scheduling.scheduler import MOST_EVICTIONS
from tests.support.loads import Arrival, arrivals, engine_options, run_load
from tests.support.toy_engine import run_to_end, toy_engine

CACHE = 40 * BLOCK
LONGEST = 200
SMALL = EngineModel("small", 0.01, 1e-4, 1e-4, batched_tokens=64, kv_tokens=CACHE, max_num_seqs=8)
ROOMY = EngineModel("roomy", 0.01, 1e-4, 1e-4, batched_tokens=64, kv_tokens=400 * BLOCK, max_num_seqs=8)

sizes = st.tuples(st.integers(1, LONGEST), st.integers(1, 40), st.integers(-2, 2))
backlogs = st.lists(sizes, min_size=4, max_size=40)


def asks_of(tenant: str, sizes: list[tuple[int, int, int]], weight: float = 1.0, service_class: int = 1) -> list[Ask]:
    return [Ask(0.0, tenant, prompt, output, weight, service_class, priority) for prompt, output, priority in sizes]


def waiting(simulation: Simulation) -> Counter[str]:
    return Counter([sequence.request.tenant for sequence in simulation.scheduler.waiting])


@given(backlogs, backlogs)
@settings(max_examples=80, deadline=None)
def test_service_of_two_who_wait_differs_by_no_more_than_the_bound(
    one: list[tuple[int, int, int]], other: list[tuple[int, int, int]]
) -> None:
    """Whatever the lengths of their prompts, and whatever priorities they claim, over any time."""
    simulation = Simulation(SMALL, asks_of("one", one) + asks_of("other", other))
    least = most = 0.0
    while simulation.step():
        simulation.scheduler.check_integrity()
        if len(waiting(simulation)) < 2:
            break
        served = {name: points[-1][1] for name, points in simulation.outcome.service.items()}
        ahead = served.get("one", 0.0) - served.get("other", 0.0)
        least, most = min(least, ahead), max(most, ahead)
    assert most - least <= 2 * max(PROMPT_TOKEN * LONGEST, OUTPUT_TOKEN * CACHE)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_service_follows_weights(one: int, other: int, seed: int) -> None:
    def many(tenant: str, weight: int, prompt: int) -> list[Ask]:
        return asks_of(tenant, [(prompt + (seed * n) % 50, 1 + n % 20, 0) for n in range(400)], float(weight))

    simulation = Simulation(ROOMY, many("one", one, 20) + many("other", other, 120))
    while simulation.step() and len(waiting(simulation)) == 2:
        pass
    served = {name: points[-1][1] for name, points in simulation.outcome.service.items()}
    assert served["one"] / served["other"] == pytest.approx(one / other, rel=0.05)


@given(st.sampled_from([1e-300, LEAST_WEIGHT, 1.0, MOST_WEIGHT, 1e300]), st.integers(0, 10**18))
@settings(max_examples=15, deadline=None)
def test_however_long_an_engine_runs_and_whatever_weights_are_no_token_is_lost(weight: float, tokens: int) -> None:
    """A tenant of any weight had so many tokens; two who come while it waits are lifted to it, and served alike."""
    old = asks_of("old", [(50, 4, 0)] * 30, weight)
    new = [ask for name, size in (("one", 20), ("other", 120)) for ask in asks_of(name, [(size, 4, 0)] * 300)]
    simulation = Simulation(ROOMY, old + [ask._replace(at=0.05) for ask in new])
    while not simulation.scheduler.waiting:
        simulation.step()
    before = next(iter(simulation.scheduler.waiting)).account
    before.charge_output(tokens, weight)
    while simulation.step():
        left = waiting(simulation)
        if "one" in simulation.outcome.service and not (left["one"] and left["other"]):
            break
    served = {name: points[-1][1] for name, points in simulation.outcome.service.items()}
    assert served["one"] == pytest.approx(served["other"], rel=0.05)


@given(st.lists(st.integers(0, 10**9), max_size=20), st.floats(LEAST_WEIGHT, MOST_WEIGHT), st.integers(0, 10**18))
def test_what_is_charged_does_not_depend_on_what_was(charges: list[int], weight: float, before: int) -> None:
    account = Account(1, 0)
    account.charge_output(before, LEAST_WEIGHT)
    start = account.counter
    for tokens in charges:
        account.charge_prompt(tokens, weight)
    assert account.counter - start == service(sum(charges), weight)
    assert service(1, weight) * weight == pytest.approx(service(1, 1.0), rel=1e-6)


@given(backlogs, backlogs)
@settings(max_examples=30, deadline=None)
def test_no_step_is_left_empty_while_somebody_waits(
    one: list[tuple[int, int, int]], other: list[tuple[int, int, int]]
) -> None:
    """Where the cache has room: a step is full, or every place is taken, or nobody waits."""
    simulation = Simulation(ROOMY, asks_of("one", one) + asks_of("other", other, service_class=2))
    scheduler = simulation.scheduler
    schedule = scheduler.schedule

    def checked() -> Any:
        plan = schedule()
        full = sum(s.total for s in plan) == SMALL.batched_tokens
        assert full or len(scheduler.running) == SMALL.max_num_seqs or not scheduler.waiting
        return plan

    scheduler.schedule = checked  # type: ignore[method-assign]
    simulation.run()
    assert not simulation.open


def test_a_tenant_that_comes_back_has_saved_nothing_up() -> None:
    flood = asks_of("flood", [(50, 5, 0)] * 300)
    late = [ask._replace(at=2.0, tenant="late") for ask in flood]
    simulation = Simulation(SMALL, flood + late)
    simulation.run(until=2.8)
    assert len(waiting(simulation)) == 2
    shares = [simulation.outcome.served(name, 2.1, 2.8) for name in ("flood", "late")]
    assert shares[0] == pytest.approx(shares[1], rel=0.1)


def test_a_priority_is_worth_nothing_against_other_tenants_and_all_among_ones_own() -> None:
    loud = asks_of("loud", [(50, 5, -1000)] * 100 + [(50, 5, 1000)])
    simulation = Simulation(SMALL, asks_of("quiet", [(50, 5, 0)] * 100) + loud)
    simulation.run(until=2.0)
    shares = [simulation.outcome.served(name, 0.5, 2.0) for name in ("loud", "quiet")]
    assert shares[0] == pytest.approx(shares[1], rel=0.1)
    simulation.run()
    assert max(simulation.outcome.waits["loud"]) == simulation.outcome.waits["loud"][-1]


def first_starts(engine: Engine, request_id: str) -> int:
    """How many interactive ones, of which there are always more, have their first token before the request starts."""
    answered: set[str] = set()
    for number in range(1000):
        for part in range(3):
            engine.add(request(f"flood {number} {part}", service_class=0, tenant=f"t{part}"))
        answered |= {output.request_id for output in engine.step()}
        engine.check_integrity()
        if engine.sequences[request_id].started_at is not None:
            return len(answered)
    raise AssertionError("it starves")


def request(request_id: str, length: int = 30, output: int = 2, **whose: Any) -> Request:
    """Of a prompt that shares no block with others."""
    start = [byte % 48 + 1 for byte in f"{request_id:>12}".encode()]
    prompt = (start * (length // len(start) + 1))[:length]
    return Request(request_id, prompt, SamplingParams(output, temperature=0.0, ignore_eos=True), **whose)


def test_batch_work_starts_however_much_interactive_work_there_is() -> None:
    engine = toy_engine(num_blocks=400, max_model_len=800, max_num_seqs=4, max_num_batched_tokens=32)
    for number in range(8):
        engine.add(request(f"before {number}", service_class=0, tenant=f"t{number % 3}"))
    engine.add(request("batch", service_class=2, tenant="night"))
    before = first_starts(engine, "batch")
    assert MOST_OVERTAKEN < before <= 2 * MOST_OVERTAKEN + 10, "it moves up twice, and then it is its tenant's turn"
    assert engine.sequences["batch"].service_class == 0


def test_a_batch_prompt_that_has_begun_goes_on() -> None:
    """It holds blocks: it comes to its end, though interactive prompts fill every step."""
    engine = toy_engine(num_blocks=400, max_model_len=800, max_num_seqs=4, max_num_batched_tokens=32)
    engine.add(request("batch", length=600, service_class=2))
    engine.step()
    for number in range(1000):
        for part in range(2):
            engine.add(request(f"flood {number} {part}", service_class=0, output=1, tenant="other"))
        if any(output.request_id == "batch" for output in engine.step()):
            break
        engine.check_integrity()
    assert engine.sequences["batch"].num_output == 1
    assert number < 4 * MOST_OVERTAKEN


@given(arrivals=arrivals, options=engine_options)
@settings(max_examples=80, deadline=None)
def test_nobody_loses_his_blocks_to_others_for_ever(arrivals: list[Arrival], options: dict[str, Any]) -> None:
    engine = toy_engine(**options)

    def check() -> None:
        assert all(s.evicted <= MOST_EVICTIONS for s in engine.sequences.values())

    run_load(engine, arrivals, check).check()


@given(arrivals=arrivals, options=engine_options, undone=st.sets(st.integers(0, 40)))
@settings(max_examples=80, deadline=None)
def test_a_step_that_is_taken_back_costs_nobody_anything(
    arrivals: list[Arrival], options: dict[str, Any], undone: set[int]
) -> None:
    """Some steps are planned, taken back and planned again: counters are as before, and the outputs as they should."""
    engine = toy_engine(**options | {"speculative_tokens": 0})
    scheduler = engine.scheduler
    schedule, number = scheduler.schedule, 0

    def planned() -> Any:
        nonlocal number
        number += 1
        if number in undone:
            before = counters(engine)
            waited = {s for s in scheduler.waiting if s.started_at is None}
            schedule()
            scheduler.undo()
            after = counters(engine)
            assert all(after[name] == value for name, value in before.items() if name[0] != 2), "batch may move up"
            assert {s for s in scheduler.waiting if s.started_at is None} == waited
            engine.check_integrity()
        return schedule()

    scheduler.schedule = planned  # type: ignore[method-assign]
    run_load(engine, arrivals).check()


def counters(engine: Engine) -> dict[tuple[int, str], int]:
    """Of the accounts of all that are there."""
    return {(s.service_class, s.request.tenant): s.account.counter for s in engine.sequences.values()}


def test_what_is_charged() -> None:
    """A prompt's tokens that are in no cache, at once, and those that are drawn; what is recomputed is not."""
    engine = toy_engine(num_blocks=60, max_model_len=200, max_num_seqs=4, max_num_batched_tokens=16)
    one = request("one", length=50, output=4, tenant="a", weight=2.0)
    engine.add(one)
    account = engine.sequences["one"].account
    engine.step()
    assert account.counter == service(PROMPT_TOKEN * 50, 2.0), "a prompt of four steps, when it is admitted"
    run_to_end(engine)
    assert account.counter == service(PROMPT_TOKEN * 50 + OUTPUT_TOKEN * 4, 2.0)
    engine.add(Request("again", one.prompt_ids, SamplingParams(1), tenant="a", is_piece=True))
    run_to_end(engine)
    found = service(29 + PROMPT_TOKEN * 2 + OUTPUT_TOKEN, 1.0)
    assert account.counter == found, "48 tokens are cached; a piece is work as any"


def test_what_is_recomputed_is_not_charged_again() -> None:
    engine = toy_engine(
        num_blocks=50, max_model_len=200, max_num_seqs=2, max_num_batched_tokens=200, enable_prefix_caching=False
    )
    engine.add(request("batch", length=100, output=20, tenant="a", service_class=2))
    for _ in range(5):
        engine.step()
    batch = engine.sequences["batch"]
    engine.add(request("urgent", length=150, output=2, tenant="b", service_class=0))
    engine.step()
    assert (batch.evicted, batch.blocks) == (1, [])
    run_to_end(engine)
    assert batch.account.counter == service(PROMPT_TOKEN * 100 + OUTPUT_TOKEN * 20, 1.0)


def test_the_worst_class_and_then_the_largest_counter_loses_its_blocks() -> None:
    engine = toy_engine(num_blocks=60, max_model_len=240, max_num_seqs=8, max_num_batched_tokens=240)
    engine.add(request("much", length=100, output=100, tenant="much"))
    engine.add(request("little", length=40, output=100, tenant="little"))
    engine.add(request("batch", length=40, output=100, tenant="night", service_class=2))
    lost = []
    for _ in range(80):
        engine.step()
        engine.check_integrity()
        lost += [name for name, s in engine.sequences.items() if not s.blocks and name not in lost]
        if len(lost) == 2:
            break
    assert lost == ["batch", "much"]


def test_who_comes_while_nobody_waits_begins_where_the_last_one_is() -> None:
    """Or a new tenant would have saved up all that others got before it came. Each class has its own account."""
    engine = toy_engine(num_blocks=60, max_model_len=200, enable_prefix_caching=False)
    for name, output in (("before", 2), ("last", 9)):
        engine.add(request(name, output=output, tenant=name))
        run_to_end(engine)
    got = service(PROMPT_TOKEN * 2 * 30 + OUTPUT_TOKEN * (2 + 9), 1.0)
    for name, service_class, counter in (("new", 1, got), ("batch", 2, 0), ("before", 1, got)):
        engine.add(request(name, tenant=name, service_class=service_class))
        assert engine.sequences[name].account.counter == counter
        engine.abort(name)


def test_of_two_who_got_alike_the_one_that_came_later_loses_its_blocks() -> None:
    """The tenant, that is: not whoever has the latest request."""
    engine = toy_engine(num_blocks=60, max_model_len=240, max_num_seqs=3, max_num_batched_tokens=64)
    for name, length, tenant in (("a", 10, "first"), ("b", 22, "second"), ("c", 10, "first")):
        engine.add(request(name, length, output=9, tenant=tenant, service_class=2))
    engine.step()
    assert len({engine.sequences[name].account.counter for name in "abc"}) == 1
    engine.add(request("urgent", tenant="other", service_class=0))
    engine.step()
    assert [name for name in "abc" if not engine.sequences[name].blocks] == ["b"]
    run_to_end(engine)


def test_a_small_prompt_of_another_tenant_passes_until_it_would_not_be_its_turn() -> None:
    engine = toy_engine(num_blocks=200, max_model_len=800, max_num_batched_tokens=800, max_num_seqs=8)
    engine.add(request("holds", length=600, output=190, tenant="holds"))
    engine.step()
    engine.add(request("large", length=300, tenant="large"))
    for number in range(MOST_PASSES):
        engine.add(request(f"small {number}", length=40, output=1, tenant="small"))
    for _ in range(40):
        engine.step()
        engine.check_integrity()
    passed = engine.sequences["large"].passed
    assert 0 < passed <= 300 / 40 + 2, "what the large one will cost, and no more"
    run_to_end(engine)


@pytest.mark.parametrize(("root", "found"), [("team", 48), ("other", 0), ("", 0)])
def test_only_those_of_one_cache_root_find_its_blocks(root: str, found: int) -> None:
    engine = toy_engine(num_blocks=60, max_model_len=200)
    one = request("one", length=50, cache_root="team")
    engine.add(one)
    run_to_end(engine)
    engine.add(Request("next", one.prompt_ids, one.params, cache_root=root))
    (first, *_) = run_to_end(engine)["next"]
    assert first.cached_tokens == found


@pytest.mark.parametrize(("root", "found"), [("team", 36), ("other", 0), ("", 0)])
def test_what_was_generated_is_found_by_those_of_its_cache_root_alone(root: str, found: int) -> None:
    engine = toy_engine(num_blocks=60, max_model_len=200)
    one = request("one", length=10, output=30, cache_root="team")
    engine.add(one)
    text = [*one.prompt_ids, *(token for output in run_to_end(engine)["one"] for token in output.token_ids)]
    engine.add(Request("next", text, one.params, cache_root=root))
    assert run_to_end(engine)["next"][0].cached_tokens == found
