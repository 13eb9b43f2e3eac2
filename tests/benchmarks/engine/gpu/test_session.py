"""Measurements within a budget: what is kept when, whatever becomes of one of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.engine.gpu.session import Entry, Found, Measurement, Session, Skip, Wrong, taken_up


class Clock:
    """Time passes when a measurement says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float, **metrics: float) -> Callable[[], Found]:
        def work() -> Found:
            self.now += seconds
            return Found(dict(metrics))

        return work


def raising(error: BaseException) -> Callable[[], Found]:
    def work() -> Found:
        raise error

    return work


class Kept:
    """What a file would hold, each time that it is written."""

    def __init__(self) -> None:
        self.versions: list[list[dict[str, Any]]] = []

    def __call__(self, entries: list[Entry]) -> None:
        self.versions.append([entry.to_json() for entry in entries])

    def statuses(self, version: int = -1) -> dict[str, str]:
        return {entry["name"]: entry["status"] for entry in self.versions[version]}


def session(kept: Kept, clock: Callable[[], float] = time.monotonic, budget_s: float = 100, **options: Any) -> Session:
    return Session(budget_s, kept, clock=clock, **options)


def test_what_does_not_fit_the_rest_of_the_budget_is_skipped_and_what_still_fits_is_not() -> None:
    clock, kept = Clock(), Kept()
    entries = session(kept, clock).run(
        [
            Measurement("slower than it should be", 20, clock.taking(75, tokens_per_s=7)),
            Measurement("long", 26, clock.taking(26)),
            Measurement("short", 25, clock.taking(25)),
            Measurement("nothing is left", 1, clock.taking(1)),
        ]
    )
    assert [(e.status, e.seconds) for e in entries] == [("done", 75), ("skipped", 0), ("done", 25), ("skipped", 0)]
    assert entries[1].said == "takes some 26 s, and 25 s are left"
    assert entries[0].metrics == {"tokens_per_s": 7}
    assert clock.now == 1100


def test_each_outcome_is_kept_before_the_next_measurement_starts() -> None:
    clock, kept = Clock(), Kept()
    seen: list[dict[str, str]] = []

    def look() -> Found:
        seen.append(kept.statuses())
        return Found({})

    session(kept, clock).run([Measurement(name, 1, look) for name in ("a", "b")])
    assert seen == [{"a": "running"}, {"a": "done", "b": "running"}]
    assert kept.statuses() == {"a": "done", "b": "done"}


def test_an_error_costs_its_own_entry_and_those_that_need_it() -> None:
    kept, cleaned = Kept(), []
    entries = session(kept, clean=lambda: cleaned.append(len(kept.versions)) is None).run(
        [
            Measurement("load", 1, raising(RuntimeError("CUDA out of memory. Tried to allocate 30 GiB"))),
            Measurement("decode", 1, lambda: Found({}), needs="load"),
            Measurement("attention", 1, raising(Wrong("off by 3", Found({"error": 3.0})))),
            Measurement("fp8", 1, raising(Skip("there is no GPU"))),
            Measurement("copy", 1, lambda: Found({"gbytes_per_s": 3.0})),
            Measurement("products", 1, raising(SystemExit(2))),
        ]
    )
    assert [e.status for e in entries] == ["failed", "skipped", "wrong", "skipped", "done", "failed"]
    assert "Tried to allocate 30 GiB" in entries[0].said
    assert "in work" in entries[0].said, "the whole traceback is kept"
    assert "'load'" in entries[1].said
    assert (entries[2].said, entries[2].metrics) == ("off by 3", {"error": 3.0})
    assert entries[3].said == "there is no GPU"
    assert len(cleaned) == 5, "after each that ran"


def test_warnings_are_kept_with_the_measurement_that_they_belong_to() -> None:
    def warns() -> Found:
        logging.getLogger("model.backends.cuda").warning("decode steps are not replayed: %s", "off by 1")
        return Found({})

    entries = session(Kept()).run([Measurement("a", 1, warns), Measurement("b", 1, lambda: Found({}))])
    assert [e.warnings for e in entries] == [["decode steps are not replayed: off by 1"], []]


def test_one_that_is_stuck_is_interrupted_and_the_others_run() -> None:
    def sleeps() -> Found:
        try:
            threading.Event().wait(60)
        except Exception:  # as code does that tries one way after another
            return Found({})
        finally:
            clock.now -= 100  # the next one has all the time that it wants
        return Found({})

    clock, kept = Clock(), Kept()
    found = session(kept, clock, budget_s=0.2)
    entries = found.run([Measurement("stuck", 0.1, sleeps), Measurement("next", 0.1, lambda: Found({}))])
    assert [e.status for e in entries] == ["stuck", "done"]
    assert "in sleeps" in entries[0].said


def test_where_no_signal_helps_the_stacks_are_kept_and_a_new_process_goes_on() -> None:
    ended = threading.Event()
    restarted: list[float] = []

    def restart(left: float) -> None:
        restarted.append(left)
        ended.set()

    def hangs() -> Found:
        while not ended.is_set():  # as if no exception could reach it
            try:
                ended.wait(30)
            except BaseException:
                continue
        return Found({})

    clock, kept = Clock(), Kept()
    found = session(kept, clock, budget_s=0.2, restart=restart, grace_s=0.2)
    found.run([Measurement("hangs", 0.1, hangs)])
    assert kept.statuses() == {"hangs": "stuck"}
    assert "in hangs" in kept.versions[-1][0]["said"]
    assert restarted == [pytest.approx(0.2)]


def test_an_error_that_a_gpu_does_not_recover_from_ends_the_process() -> None:
    clock, kept, restarted = Clock(), Kept(), []
    found = session(kept, clock, clean=lambda: False, restart=restarted.append)
    found.run(
        [
            Measurement("a", 1, raising(RuntimeError("an illegal memory access was encountered"))),
            Measurement("b", 1, lambda: Found({})),
        ]
    )
    assert restarted == [100]
    assert kept.statuses(1) == {"a": "failed"}, "kept before the process ends"
    assert kept.statuses() == {"a": "failed", "b": "skipped"}, "if it does not"


def test_a_result_that_was_cut_short_is_taken_up() -> None:
    written = [
        Entry("done", "done", 3, {"a": 1}),
        Entry("killed", "running"),
        Entry("no time", "skipped", said="takes some 9 s, and 1 s are left"),
    ]
    before = taken_up([entry.to_json() for entry in written])
    kept = Kept()
    ran: list[str] = []
    names = ("done", "killed", "no time")
    plan = [Measurement(name, 1, lambda name=name: ran.append(name) or Found({})) for name in names]
    entries = session(kept, before=before).run([*plan, Measurement("last", 1, lambda: Found({}), needs="done")])
    assert ran == ["no time"]
    assert [(e.name, e.status) for e in entries] == [
        ("done", "done"),
        ("killed", "failed"),
        ("no time", "done"),
        ("last", "done"),
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.int64(3)])
def test_what_json_cannot_hold_is_kept_as_a_word(value: object) -> None:
    assert Entry("a", "wrong", metrics={"error": value, "b": 1.5}).to_json()["metrics"] == {
        "error": str(value),
        "b": 1.5,
    }
