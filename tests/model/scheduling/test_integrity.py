"""What `check_integrity` is for: each thing that could go wrong between steps is found, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from model.engine import Engine
from model.request import Request, SamplingParams
from model.scheduling.sequence import Sequence
from tests.support.toy_engine import run_to_end, toy_engine

ENDLESS = SamplingParams(30, temperature=0, ignore_eos=True)


def busy() -> Engine:
    """Two run, three wait: of two tenants in one class, and of another class."""
    engine = toy_engine(max_num_seqs=2, num_blocks=40)
    for name, tenant, service_class in (
        ("run 0", "a", 1),
        ("run 1", "b", 1),
        ("wait 0", "a", 1),
        ("wait 1", "a", 1),
        ("wait 2", "b", 2),
    ):
        prompt = [len(engine.sequences) + 1] * 9
        engine.add(Request(name, prompt, ENDLESS, tenant=tenant, service_class=service_class))
    for _ in range(3):
        engine.step()
    engine.check_integrity()
    assert [s.request.request_id for s in engine.scheduler.running] == ["run 0", "run 1"]
    return engine


def of(engine: Engine, name: str) -> Sequence:
    return engine.sequences[name]


def line_of(engine: Engine, name: str) -> list[Sequence]:
    sequence = of(engine, name)
    return engine.scheduler.waiting._waiting[sequence.service_class][sequence.account]


def waits_and_runs(engine: Engine) -> None:
    engine.scheduler.running.append(of(engine, "wait 2"))


def waits_with_blocks(engine: Engine) -> None:
    of(engine, "wait 0").blocks = engine.pool.allocate(1)


def waits_with_computed_tokens(engine: Engine) -> None:
    of(engine, "wait 0").computed = 4


def too_many_run(engine: Engine) -> None:
    engine.scheduler.limits = toy_engine(max_num_seqs=1).limits


def run_out_of_order(engine: Engine) -> None:
    engine.scheduler.running.reverse()


def computes_beyond_its_blocks(engine: Engine) -> None:
    sequence = of(engine, "run 0")
    sequence.computed = 4 * len(sequence.blocks) + 1


def lost_a_block(engine: Engine) -> None:
    of(engine, "run 0").blocks = of(engine, "run 0").blocks[:-1] + engine.pool.allocate(1)


def holds_a_block_twice(engine: Engine) -> None:
    of(engine, "run 0").blocks.append(of(engine, "run 0").blocks[0])


def took_anothers_block(engine: Engine) -> None:
    of(engine, "run 0").blocks.append(of(engine, "run 1").blocks[0])


def gave_up_a_block_that_is_held(engine: Engine) -> None:
    engine.pool._free[of(engine, "run 0").blocks[0]] = None


def forgot_a_free_block(engine: Engine) -> None:
    engine.pool._free.popitem()


def finds_a_block_by_anothers_hash(engine: Engine) -> None:
    one, other = list(engine.pool._block_of)[:2]
    engine.pool._block_of[one], engine.pool._block_of[other] = (engine.pool._block_of[n] for n in (other, one))


def finds_a_block_that_has_no_hash(engine: Engine) -> None:
    engine.pool._block_of[b"stale"] = 0


def has_a_hash_that_nobody_finds(engine: Engine) -> None:
    engine.pool._hash_of[39] = b"stale"


def keeps_a_row_for_one_that_waits(engine: Engine) -> None:
    tables = engine.scheduler.tables
    tables._row_of[of(engine, "wait 0")] = tables._row_of.pop(of(engine, "run 0"))


def lost_a_row(engine: Engine) -> None:
    engine.scheduler.tables._free.append(engine.scheduler.tables._row_of[of(engine, "run 0")])


def wrote_anothers_row(engine: Engine) -> None:
    tables = engine.scheduler.tables
    tables._table[tables._row_of[of(engine, "run 0")], 0] += 1


def left_a_row_behind(engine: Engine) -> None:
    tables = engine.scheduler.tables
    tables._written[tables._row_of[of(engine, "run 0")]] -= 1


def counts_one_that_does_not_wait(engine: Engine) -> None:
    engine.scheduler.waiting._size += 1


def waits_out_of_order(engine: Engine) -> None:
    line_of(engine, "wait 0").reverse()


def waits_in_another_tenants_line(engine: Engine) -> None:
    of(engine, "wait 0").account = of(engine, "run 1").account


def waits_in_another_class(engine: Engine) -> None:
    lines = engine.scheduler.waiting._waiting
    lines[0] = lines.pop(2)


def leaves_an_empty_line(engine: Engine) -> None:
    engine.scheduler.waiting._waiting[1][of(engine, "run 1").account] = []


def leaves_an_empty_class(engine: Engine) -> None:
    engine.scheduler.waiting._waiting[0] = {}


def forgot_that_it_never_ran(engine: Engine) -> None:
    engine.scheduler.waiting._never_ran[2].clear()


def takes_one_that_has_run_for_new(engine: Engine) -> None:
    of(engine, "wait 2").started_at = 1.0


def takes_one_that_runs_for_new(engine: Engine) -> None:
    engine.scheduler.waiting._never_ran[0][of(engine, "run 0")] = None


def knows_one_that_the_scheduler_does_not(engine: Engine) -> None:
    engine.sequences["lost"] = of(engine, "run 0")
    del engine.sequences["run 1"]


def forgot_one_that_waits(engine: Engine) -> None:
    del engine.sequences["wait 2"]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (waits_and_runs, None),
        (waits_with_blocks, "a waiting sequence holds blocks"),
        (waits_with_computed_tokens, "a waiting sequence holds blocks"),
        (too_many_run, None),
        (run_out_of_order, "out of order"),
        (computes_beyond_its_blocks, "computed tokens without a block"),
        (lost_a_block, "reference counts differ"),
        (holds_a_block_twice, "a sequence holds a block twice"),
        (took_anothers_block, "reference counts differ"),
        (gave_up_a_block_that_is_held, "the free list differs"),
        (forgot_a_free_block, "the free list differs"),
        (finds_a_block_by_anothers_hash, None),
        (finds_a_block_that_has_no_hash, None),
        (has_a_hash_that_nobody_finds, None),
        (keeps_a_row_for_one_that_waits, "a sequence that does not run holds a row"),
        (lost_a_row, "a row has leaked"),
        (wrote_anothers_row, "a row differs"),
        (left_a_row_behind, "a row differs"),
        (counts_one_that_does_not_wait, None),
        (waits_out_of_order, "out of order"),
        (waits_in_another_tenants_line, "a sequence waits with another's account"),
        (waits_in_another_class, None),
        (leaves_an_empty_line, "a tenant of whom nobody waits"),
        (leaves_an_empty_class, "a class in which nobody waits"),
        (forgot_that_it_never_ran, None),
        (takes_one_that_has_run_for_new, None),
        (takes_one_that_runs_for_new, None),
        (knows_one_that_the_scheduler_does_not, "know different sequences"),
        (forgot_one_that_waits, "know different sequences"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_between_steps_is_found(fault: Callable[[Engine], None], says: str | None) -> None:
    engine = busy()
    fault(engine)
    with pytest.raises(AssertionError, match=says):
        engine.check_integrity()


def test_blocks_that_are_held_when_nobody_is_there_are_found() -> None:
    engine = toy_engine()
    engine.add(Request("a", [1] * 9, SamplingParams(2)))
    run_to_end(engine)
    engine.check_integrity()
    (block,) = engine.pool.allocate(1)
    with pytest.raises(AssertionError, match=r"reference counts differ"):
        engine.check_integrity()
    engine.pool.release([block])
    engine.check_integrity()
