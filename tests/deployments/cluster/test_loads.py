"""A handle's own requests are counted one by one; what a replica says of others' is believed for a while."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.cluster.loads import FLIGHT_S, FORGIVEN_S, SILENT_S, TRUSTED_S, Loads


@dataclass
class World:
    """Handles of one replica, and what is on its way between them.

    sent: not taken yet; open: by request its handle; words, ends: what the replica said and the handle has not heard.
    """

    handles: int
    now: float = 0.0
    number: int = 0
    sent: list[tuple[int, str]] = field(default_factory=list)
    open: dict[str, int] = field(default_factory=dict)
    words: list[tuple[int, str, int]] = field(default_factory=list)
    ends: list[tuple[int, str]] = field(default_factory=list)
    believed: list[set[str]] = field(default_factory=list)  # open, as far as each handle can know

    def __post_init__(self) -> None:
        self.loads = [Loads(lambda: self.now) for _ in range(self.handles)]
        self.believed = [set() for _ in range(self.handles)]

    def load(self, handle: int = 0) -> int:
        return self.loads[handle].of("r")["r"]

    def send(self, handle: int) -> None:
        self.number += 1
        self.sent.append((handle, str(self.number)))
        self.believed[handle].add(str(self.number))
        self.loads[handle].sent("r")

    def take(self, index: int) -> None:
        handle, request = self.sent.pop(index % len(self.sent))
        self.open[request] = handle
        self.words.append((handle, request, len(self.open)))

    def hear_word(self, index: int) -> None:
        handle, request, count = self.words.pop(index % len(self.words))
        self.loads[handle].reported("r", count)
        self.loads[handle].routed("r", request)

    def end(self, index: int) -> None:
        request = list(self.open)[index % len(self.open)]
        self.ends.append((self.open.pop(request), request))

    def hear_end(self, index: int) -> None:
        """The word before it, as a rule."""
        handle, request = self.ends.pop(index % len(self.ends))
        for at, (_, of, _) in enumerate(self.words):
            if of == request:
                self.hear_word(at)
                break
        self.loads[handle].completed("r", request)
        self.believed[handle].remove(request)

    def possible(self) -> list[Callable[[int], None]]:
        able = {self.take: self.sent, self.hear_word: self.words, self.end: self.open, self.hear_end: self.ends}
        return [action for action, on in able.items() if on]

    def do(self, choice: int) -> None:
        """Small numbers send, others do something that is possible; time passes, never long."""
        actions = [lambda number: self.send(number % self.handles), *self.possible()]
        actions[choice % len(actions)](choice // len(actions))
        self.now += FLIGHT_S / 1000

    def finish(self) -> None:
        while possible := self.possible():
            possible[0](0)


@given(st.lists(st.integers(0, 10_000), max_size=120))
def test_a_single_handle_knows_exactly_what_is_open(choices):
    """In whatever order what is said arrives: Serve's own count drifts here, and stays wrong when all has ended."""
    world = World(1)
    for choice in choices:
        world.do(choice)
        assert world.load() == len(world.believed[0])
    world.finish()
    assert world.load() == 0


@given(st.integers(2, 4), st.lists(st.integers(0, 10_000), max_size=120))
def test_of_others_it_believes_no_more_than_there_were(handles, choices):
    world = World(handles)
    most = 0
    for choice in choices:
        world.do(choice)
        most = max(most, len(world.open))
        for handle, ours in enumerate(world.believed):
            assert len(ours) <= world.load(handle) <= len(ours) + most
    world.finish()
    world.now += TRUSTED_S + 1
    assert {world.load(handle) for handle in range(handles)} == {0}


def test_others_requests_count_as_the_replica_said_for_a_while():
    world = World(2)
    for _ in range(5):
        world.send(1)
        world.take(0)
    world.send(0)
    world.take(0)
    world.hear_word(5)
    assert world.load(0) == 6
    world.now += TRUSTED_S + 1
    assert world.load(0) == 1


def test_ended_requests_of_ours_do_not_count_as_others():
    """The replica's word is older than what is known by now."""
    world = World(1)
    for _ in range(6):
        world.send(0)
        world.take(0)
    for _ in range(5):
        world.hear_word(0)
    for _ in range(5):
        world.end(0)
        world.hear_end(0)
    world.hear_word(0)  # six are open, it says
    assert world.load() == 1


def test_a_burst_of_long_ago_hides_no_others():
    world = World(2)
    for _ in range(6):
        world.send(0)
    world.finish()
    world.now += 3 * FLIGHT_S
    for handle in (1, 1, 1, 0):
        world.send(handle)
        world.take(0)
    world.hear_word(3)
    assert world.load(0) == 4


def test_a_request_that_ends_before_it_was_known_to_be_taken_is_none_that_is_open():
    loads = Loads()
    loads.sent("r")
    loads.completed("r", "quick")
    loads.reported("r", 1)
    loads.routed("r", "quick")
    assert loads.of("r") == {"r": 0}


def test_an_errand_does_not_make_a_replica_busy():
    """The call by which it sends its answers is open as long as it lives, a receipt for some milliseconds."""
    loads = Loads()

    def say(call: str, count: int, errand: bool) -> None:
        loads.reported("r", count)
        loads.routed("r", call, errand)

    loads.errand("r")
    loads.sent("r")
    assert loads.of("r") == {"r": 0}
    say("answers", 1, errand=True)
    assert loads.of("r") == {"r": 0}
    loads.sent("r")
    loads.errand("r")
    loads.sent("r")
    assert loads.of("r") == {"r": 1}
    say("receipt", 2, errand=True)
    assert loads.of("r") == {"r": 1}
    say("request", 3, errand=False)
    assert loads.of("r") == {"r": 1}
    loads.completed("r", "receipt")
    assert loads.of("r") == {"r": 1}
    loads.completed("r", "request")
    assert loads.of("r") == {"r": 0}


def test_an_errand_that_nobody_takes_hides_no_request_after_it():
    loads = Loads()
    loads.errand("r")
    loads.sent("r")
    loads.completed("r", "receipt")
    loads.sent("r")
    assert loads.of("r") == {"r": 1}


def test_a_request_that_is_refused_counts_nowhere():
    loads = Loads()
    loads.sent("r")
    loads.reported("r", 0)
    loads.completed("r", "refused")
    assert loads.of("r") == {"r": 0}


def test_what_ends_without_being_taken_is_remembered_in_bounds():
    loads = Loads()
    for number in range(5000):
        loads.completed("r", str(number))
    assert len(loads._replicas["r"].ended) == 1000
    assert loads.answering("s") == ["s"]
    assert not loads._replicas["r"].ended, "it is gone"


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def loads(now: list[float]) -> Loads:
    return Loads(lambda: now[0])


def test_a_replica_that_takes_nothing_is_passed_over_for_a_while(loads, now):
    loads.sent("a")
    assert loads.answering("ab") == ["a", "b"], "it may be about to answer"
    now[0] += SILENT_S + 1
    loads.sent("a")
    assert loads.answering("ab") == ["b"]
    assert loads.answering("a") == ["a"], "there is no other"
    now[0] += FORGIVEN_S
    assert loads.answering("ab") == ["a", "b"]
    loads.sent("a")
    now[0] += SILENT_S + 1
    loads.reported("a", 1)
    assert loads.answering("ab") == ["a", "b"]


def test_a_client_that_gives_up_at_once_makes_no_replica_silent(loads, now):
    """As an editor does at each key: nobody waits for that replica any more."""
    loads.sent("a")
    loads.completed("a", "typed on")
    now[0] += SILENT_S + 1
    assert loads.answering("ab") == ["a", "b"]


def test_clients_that_give_up_do_not_make_a_silent_replica_answer(loads, now):
    loads.sent("a")
    loads.sent("a")
    now[0] += SILENT_S + 1
    loads.completed("a", "waited long")
    loads.completed("a", "waited long, too")
    assert loads.answering("ab") == ["b"]
