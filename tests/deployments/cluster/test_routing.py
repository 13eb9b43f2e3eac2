"""Requests go where their prefix is, until that replica is much busier than another."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve._private.common import DeploymentID, ReplicaID

from deployments.cluster import routing
from deployments.cluster.routing import (
    Asked,
    PrefixIndex,
    PrefixRouter,
    choose,
    prospects,
    reason_for,
)
from deployments.health import Question
from deployments.protocol import Attach, EditorSession, GenerationRequest, Receipt
from model.request import SamplingParams
from monitoring.process import init, render


def first(count: int) -> int:
    return 0


def test_the_longest_prefix_wins():
    index = PrefixIndex(block_size=4)
    index.remember(index.hashes(list(range(8))), "a")
    index.remember(index.hashes([*range(4), 9, 9, 9, 9]), "b")
    blocks = index.holders(index.hashes([*range(8), 5, 5, 5, 5]))
    assert blocks == {"b": 1, "a": 2}
    assert choose({"a": 3, "b": 0, "c": 0}, blocks, imbalance=8, tie=first) == "a"


def test_a_much_busier_replica_loses_its_claim():
    assert choose({"a": 9, "b": 0}, {"a": 5}, imbalance=8, tie=first) == "b"
    assert choose({"a": 8, "b": 0}, {"a": 5}, imbalance=8, tie=first) == "a"


def test_an_unknown_prompt_goes_to_one_of_the_least_busy():
    assert choose({"a": 2, "b": 1, "c": 1}, {}, imbalance=8, tie=first) == "b"
    assert choose({"a": 2, "b": 1, "c": 1}, {}, imbalance=8, tie=lambda n: n - 1) == "c"


def test_a_prefix_of_less_than_a_block_is_no_prefix():
    index = PrefixIndex(block_size=4)
    index.remember(index.hashes([1, 2, 3]), "a")
    assert index.holders(index.hashes([1, 2, 3])) == {}


def test_the_least_recently_used_is_forgotten():
    index = PrefixIndex(block_size=1, capacity=3)
    index.remember(index.hashes([1]), "a")
    index.remember(index.hashes([2]), "a")
    index.remember(index.hashes([1]), "b")
    index.remember(index.hashes([3, 4]), "c")
    assert len(index) == 3
    assert index.holders(index.hashes([1])) == {"b": 1}
    assert index.holders(index.hashes([2])) == {}


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 30), min_size=1),
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9)),
    st.integers(0, 10),
)
def test_the_choice_is_a_replica_and_never_far_above_the_least_busy(loads, blocks, imbalance):
    chosen = choose(loads, blocks, imbalance, first)
    assert loads[chosen] <= min(loads.values()) + imbalance


def asked(name: str, attempt: int = 0) -> GenerationRequest:
    id = f"{name}~{attempt}" if attempt else name
    return GenerationRequest(request_id=id, prompts=[[1]], params=SamplingParams(), attempt=attempt)


def test_a_request_does_not_come_back_to_the_replica_that_failed_it():
    """That one may take seconds to end, and holds the request's prefix."""
    sent = Asked(capacity=2)
    assert sent.others(None, ["a", "b"]) == ["a", "b"]
    sent.remember(asked("r"), "a")
    assert sent.others(asked("r"), ["a", "b"]) == ["a", "b"]
    assert sent.others(asked("r", 1), ["a", "b"]) == ["b"]
    assert sent.others(asked("r", 1), ["a"]) == ["a"], "rather this one than none"
    sent.remember(asked("r", 1), "b")
    assert sent.others(asked("r", 2), ["a", "b"]) == ["a"]
    for name in ("s", "t"):
        sent.remember(asked(name), "a")
    assert sent.others(asked("r", 2), ["a", "b"]) == ["a", "b"], "it is forgotten"


def test_a_decision_is_judged_by_what_was_known_when_it_was_made():
    living = {"a", "b", "c"}
    assert prospects({}, living, "a") == (0, 0)
    assert prospects({"b": 3}, living, "a") == (3, 0)
    assert prospects({"a": 5, "b": 3}, living, "b") == (5, 3)
    assert prospects({"gone": 9, "b": 3}, living, "b") == (3, 3), "what has ended holds nothing"
    assert reason_for("a", None, 0, 0) == "nothing_known"
    assert reason_for("a", None, 5, 5) == "prefix"
    assert reason_for("b", None, 5, 3) == "passed_over"
    assert reason_for("a", "a", 5, 0) == "session", "its session counts for more than its prompt"
    assert reason_for("b", "a", 5, 5) == "passed_over"


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 8), min_size=1),
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9)),
)
def test_a_router_that_has_no_reason_to_do_otherwise_sends_all_to_the_prefix(loads, blocks):
    """A router that works shows nothing passed over, while engines are about as busy; a broken one does."""
    chosen = choose(loads, {replica: n for replica, n in blocks.items() if replica in loads}, imbalance=8, tie=first)
    known, expected = prospects(blocks, loads, chosen)
    assert known == expected
    assert reason_for(chosen, None, known, expected) != "passed_over"
    other = next((replica for replica in loads if blocks.get(replica, 0) < known), None)
    if other is not None:
        assert reason_for(other, None, *prospects(blocks, loads, other)) == "passed_over"


def test_the_router_counts_what_it_knew_before_it_sent_the_request():
    router = PrefixRouter.__new__(PrefixRouter)  # without the rest of Serve
    a, b = (ReplicaID(name, DeploymentID("engine")) for name in "ab")
    router._replicas = {a: None, b: None}
    metadata = SimpleNamespace(internal_request_id="r")
    init(None)
    try:
        router.initialize_state(block_size=4, imbalance=8, model="m")
        for to in (a, a, b):
            request = GenerationRequest(request_id="r", prompts=[list(range(9))], params=SamplingParams())
            router.on_request_routed(SimpleNamespace(args=(request,), created_at=0.0, metadata=metadata), to, None)
        said = render().decode()
    finally:
        init(None)
    for reason, count in (("nothing_known", 1), ("prefix", 1), ("passed_over", 1), ("session", 0)):
        assert f'starcoder_routing_decisions_total{{model="m",reason="{reason}"}} {count}.0' in said
    assert 'starcoder_routing_known_prefix_tokens_total{model="m"} 16.0' in said
    assert 'starcoder_routing_expected_prefix_tokens_total{model="m"} 8.0' in said


async def test_a_session_stays_though_its_replica_is_listened_to():
    """The answers' call is open there, the newest receipt on its way: neither is a request."""
    router = PrefixRouter.__new__(PrefixRouter)  # without the rest of Serve
    router.initialize_state(imbalance=0)
    router._use_replica_queue_len_cache = False
    replicas = [SimpleNamespace(replica_id=ReplicaID(name, DeploymentID("engine"))) for name in "ab"]
    router._replicas = {replica.replica_id: replica for replica in replicas}
    told: list[object] = []
    router._metrics = SimpleNamespace(routed=lambda *of_it: told.append(of_it))

    def pending(argument: object, id: str) -> SimpleNamespace:
        return SimpleNamespace(args=(argument,), created_at=0.0, metadata=SimpleNamespace(internal_request_id=id))

    async def route(argument: object, id: str) -> ReplicaID:
        [[replica], *_] = await router.choose_replicas(replicas, pending(argument, id))
        router.on_send_request(replica.replica_id)
        return replica.replica_id

    def request(number: int) -> GenerationRequest:
        session = EditorSession(key="window", prefix="x", prefix_length=1, surroundings="")
        return GenerationRequest(request_id=str(number), prompts=[[number]], params=SamplingParams(), session=session)

    init(None)
    try:
        there = await route(request(0), "0")
        router.on_new_queue_len_info(there, 1)
        router.on_request_routed(pending(request(0), "0"), there, None)
        assert told == [("session", 0, 0)]
        router.on_request_completed(there, "0")
        attach = Attach(engine=there.unique_id, reader="i")
        assert await route(attach, "answers") == there
        router.on_new_queue_len_info(there, 1)
        router.on_request_routed(pending(attach, "answers"), there, None)
        assert await route(Receipt(engine=there.unique_id, reader="i"), "receipt") == there
        assert await route(request(1), "1") == there
        assert await route(request(2), "2") != there, "it is busier by a request"
    finally:
        init(None)


class Routed:
    """A router of three engines, without the rest of Serve."""

    def __init__(self, **settings: object) -> None:
        self.router = PrefixRouter.__new__(PrefixRouter)
        self.router.initialize_state(**settings)
        self.router._use_replica_queue_len_cache = False
        self.replicas = [SimpleNamespace(replica_id=ReplicaID(name, DeploymentID("engine"))) for name in "abc"]
        self.router._replicas = {replica.replica_id: replica for replica in self.replicas}
        self.router._random = SimpleNamespace(randrange=lambda count: 0)
        self.open = Counter[str]()

    async def choices(self, argument: object, *names: str) -> list[list[str]]:
        """By rank, of those that are offered: all, if none is named."""
        offered = [replica for replica in self.replicas if replica.replica_id.unique_id in (names or "abc")]
        pending = None if argument is None else SimpleNamespace(args=("stream", argument), metadata=None)
        ranks = await self.router.choose_replicas(offered, pending)
        return [[replica.replica_id.unique_id for replica in rank] for rank in ranks]

    def sent(self, argument: object, to: str, id: str = "r") -> None:
        pending = SimpleNamespace(
            args=("stream", argument), created_at=2.5, metadata=SimpleNamespace(internal_request_id=id)
        )
        replica = next(replica.replica_id for replica in self.replicas if replica.replica_id.unique_id == to)
        self.open[to] += 1
        self.router.on_send_request(replica)
        self.router.on_new_queue_len_info(replica, self.open[to])
        self.router.on_request_routed(pending, replica, None)


def prompt(*tokens: int, **more: object) -> GenerationRequest:
    return GenerationRequest(request_id="r", prompts=[list(tokens)], params=SamplingParams(), **more)


async def test_others_are_asked_where_the_chosen_one_refuses():
    routed = Routed(block_size=4)
    assert await routed.router.choose_replicas([], None) == []
    assert await routed.choices(None) == [["a"], ["b", "c"]]
    routed.router.on_send_request(routed.replicas[0].replica_id)
    assert await routed.choices(prompt(1)) == [["a"], ["b", "c"]], "what is on its way to a is no request"
    routed.router.on_send_request(routed.replicas[0].replica_id)
    assert await routed.choices(prompt(1)) == [["b"], ["a", "c"]]
    assert await routed.choices(prompt(1), "c") == [["c"]]


async def test_a_prompt_goes_where_it_is_known_within_its_cache_root():
    routed = Routed(block_size=4, imbalance=1)
    known = prompt(*range(9), cache_root="red")
    routed.sent(known, "c")
    assert (await routed.choices(known))[0] == ["c"]
    assert (await routed.choices(prompt(*range(9), cache_root="blue")))[0] == ["a"]
    routed.sent(known, "c", "s")
    assert (await routed.choices(known))[0] == ["a"], "it is busier by two"
    assert (await routed.choices(known, "a", "b"))[0] == ["a"]


@pytest.mark.parametrize("errand", [Attach, Receipt, Question])
async def test_what_is_for_one_engine_goes_there_and_where_it_is_gone_to_any(errand: type):
    routed = Routed()
    fields = {"reader": "i"} if errand is not Question else {}
    assert await routed.choices(errand(engine="b", **fields)) == [["b"]]
    assert await routed.choices(errand(engine="gone", **fields)) == [["a", "b", "c"]]


def test_of_a_traced_request_a_span_says_where_it_went(monkeypatch: pytest.MonkeyPatch):
    spans = Mock()
    monkeypatch.setattr(routing.tracing, "current", lambda: spans)
    routed = Routed(block_size=4)
    traced = prompt(*range(9), trace={"traceparent": "caller"})
    routed.sent(traced, "b")
    routed.sent(traced, "b", "s")
    routed.sent(prompt(1), "b", "t")
    assert [each.args for each in spans.start.call_args_list] == [("route", {"traceparent": "caller"})] * 2
    first, second = (each.kwargs for each in spans.start.call_args_list)
    assert first == {
        "attributes": {"starcoder.engine": "b", "starcoder.route.known_prefix_tokens": 0},
        "start_ns": 2_500_000_000,
    }
    assert second["attributes"]["starcoder.route.known_prefix_tokens"] == 8
    assert spans.start.return_value.end.call_count == 2
