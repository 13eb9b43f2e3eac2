"""Requests go where their prefix is, until that replica is much busier than another."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from ray.serve._private.common import DeploymentID, ReplicaID

from deployments.cluster.routing import (
    Asked,
    PrefixIndex,
    PrefixRouter,
    choose,
    prospects,
    reason_for,
)
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
