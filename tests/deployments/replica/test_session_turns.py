"""Which turn of a session inherits what, and which one is ended: without an engine."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from deployments.protocol import Earlier, EditorSession, GenerationRequest, StopRules, TakenOver
from deployments.replica.sessions import _COMPARED_CHARACTERS, LIFETIME_S, Generation, Sessions, Turn
from model.request import Output, Request, SamplingParams, TokenLogprobs
from model.text.tokenizer import Tokenizer
from tests.support.tokenizers import starcoder_rules


@functools.cache
def tokens() -> Tokenizer:
    return Tokenizer(starcoder_rules())


def request(prefix: str = "x = ", seen: int = 1_000_000, **changes: Any) -> GenerationRequest:
    """seen: characters of the prefix that the replica is told."""
    session = EditorSession(key="s", prefix=prefix[-seen:], prefix_length=len(prefix), surroundings="")
    fields: dict[str, Any] = {"prompts": [tokens().encode(prefix)], "params": SamplingParams(max_tokens=8)}
    return GenerationRequest(request_id="r", session=session, **(fields | changes))


def sessions() -> Sessions:
    return Sessions(tokens(), clock=lambda: 0.0)


def said(text: str, finish: str | None = None, stop_token_id: int | None = None) -> Output:
    ids = tokens().encode(text)
    logprobs = [TokenLogprobs(id, -1.0, []) for id in ids]
    return Output("r", ids, logprobs=logprobs, finish_reason=finish, stop_token_id=stop_token_id)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("attempt", "asked_at", "stale"),
    [(1, 1.0, True), (1, 2.0, False), (1, 3.0, False), (0, 1.0, False)],
)
def test_one_from_a_dead_engine_gives_way_to_what_was_asked_since(attempt: int, asked_at: float, stale: bool) -> None:
    known, ended = sessions(), list[str]()
    with known.turn(request(asked_at=2.0)) as newer:
        newer.end = lambda: ended.append("newer")
        newer.add(said("foo(1)"))
        with known.turn(request("x = f", attempt=attempt, asked_at=asked_at)) as turn:
            assert turn.ended is stale
            assert (newer.ended, ended) == ((False, []) if stale else (True, ["newer"]))
            assert turn.typed == (None if stale else 1)
            assert (turn.generation is None) is stale
        assert turn.end is None
    with known.turn(request("x = fo", asked_at=9.0)) as following:
        assert following.typed == 2, "nothing is lost of what was generated"


def test_what_a_dead_engine_had_generated_is_inherited_too() -> None:
    known = sessions()
    earlier = (Earlier(token_ids=tokens().encode("foo"), logprobs=[-2.0]),)
    with known.turn(request(attempt=1, asked_at=1.0, earlier=earlier)) as turn:
        assert (turn.typed, turn.key) == (None, ("", "s"))
        turn.add(said("(1)"))
    with known.turn(request("x = fo")) as following:
        generation = following.generation
        assert following.typed == 2
        assert generation is turn.generation
        assert generation is not None
        assert tokens().decode(generation.token_ids.tolist()) == "foo(1)"
        assert generation.logprobs.tolist() == [-2.0] + [-1.0] * len(tokens().encode("(1)"))


def test_one_that_had_taken_something_over_keeps_nothing() -> None:
    """What it said is behind another prompt than its own."""
    known = sessions()
    over = TakenOver(prompt_ids=[1], token_ids=[2], logprobs=[-1.0], typed=0, told=1)
    for earlier in ((Earlier(taken_over=over),), (Earlier(taken_over=over), Earlier())):
        with known.turn(request(attempt=1, earlier=earlier)) as turn:
            assert (turn.generation, turn.typed) == (None, None)
    assert len(known) == 1


def test_tokens_behind_the_text_are_not_kept_and_only_the_models_own_end_is_an_end() -> None:
    turn = Turn(Generation.of(request(), request().session))  # type: ignore[arg-type]
    generation = turn.generation
    assert generation is not None
    turn.add(said("foo", "length"))
    assert generation.finish is None
    eos = tokens().eos_id
    last = said("(1)", "stop", eos)
    last.token_ids = [*last.token_ids, eos]
    last.logprobs = [*(last.logprobs or ()), TokenLogprobs(eos, -9.0, [])]
    turn.add(last)
    assert tokens().decode(generation.token_ids.tolist()) == "foo(1)"
    assert set(generation.logprobs.tolist()) == {-1.0}
    assert generation.finish == Output("r", finish_reason="stop", stop_token_id=eos)
    assert turn.generated == len(tokens().encode("foo")) + len(tokens().encode("(1)")) + 1
    Turn().add(said("nothing is kept"))


@pytest.mark.parametrize(
    ("inherits", "changes"),
    [
        (True, {}),
        (True, {"params": SamplingParams(max_tokens=30)}),
        (True, {"params": SamplingParams(max_tokens=8, seed=1, temperature=0.0)}),
        (True, {"rules": StopRules(prefixes=("p",), suffixes=("s",))}),
        (False, {"params": SamplingParams(max_tokens=8, seed=1)}),
        (False, {"params": SamplingParams(max_tokens=8, min_tokens=1)}),
        (False, {"params": SamplingParams(max_tokens=8, logprobs=0)}),
        (False, {"params": SamplingParams(max_tokens=8, prompt_logprobs=0)}),
        (False, {"n": 2, "best_of": 2}),
        (False, {"best_of": 2}),
        (False, {"prompts": [[1], [1]]}),
    ],
)
def test_who_leaves_something_to_the_next(inherits: bool, changes: dict[str, Any]) -> None:
    known = sessions()
    with known.turn(request(**changes)) as turn:
        assert (turn.generation is not None) is inherits
        turn.add(said("foo(1)"))
    if changes.get("rules"):
        changes = {"rules": StopRules(prefixes=("another",), suffixes=("cursor",))}
    with known.turn(request("x = f", **changes)) as following:
        assert following.typed == (1 if inherits else None)


@pytest.mark.parametrize(
    "changes",
    [{"include_stop": True}, {"skip_special": False}, {"stop": ("z",)}, {"rules": StopRules(mode="line")}],
)
def test_what_is_shown_otherwise_is_not_inherited(changes: dict[str, Any]) -> None:
    known = sessions()
    with known.turn(request()) as turn:
        turn.add(said("foo(1)"))
    with known.turn(request("x = f", **changes)) as following:
        assert following.typed is None


def test_tokens_that_are_wasted_are_those_of_one_whose_text_is_not_gone_on_with() -> None:
    for prefix, wasted in (("x = f", 0), ("x = g", len(tokens().encode("foo(1)")))):
        known = sessions()
        with known.turn(request()) as older:
            older.add(said("foo(1)"))
            with known.turn(request(prefix)):
                assert (older.ended, older.wasted) == (True, wasted)
        with known.turn(request("y = ")) as last:
            last.add(said("foo(1)"))
        with known.turn(request("z = ")):
            assert (last.ended, last.wasted) == (True, 0), "it had come to its end"


@pytest.mark.parametrize(("max_tokens", "goes_on"), [(5, False), (6, True)])
def test_it_goes_on_while_there_is_room_that_is_known_to_be_there(max_tokens: int, goes_on: bool) -> None:
    """Of the window: what either request asked for fits."""
    known = sessions()
    prompt = len(tokens().encode("x = "))
    answer = tokens().encode("foo(1)")
    with known.turn(request(params=SamplingParams(max_tokens=len(answer)))) as older:
        older.add(said("foo(1)"))
    newer = request("x = f", prompts=[[1] * prompt], params=SamplingParams(max_tokens=len(answer) - 5 + max_tokens))
    with known.turn(newer) as turn:
        assert (turn.typed is not None) is goes_on


@pytest.mark.parametrize(
    ("seen", "typed", "goes_on"), [(50, 4, False), (54, 4, True), (60, 4, True), (49, 0, False), (50, 0, True)]
)
def test_the_text_before_is_compared_as_far_as_both_know_it(seen: int, typed: int, goes_on: bool) -> None:
    """What is further away than the replica was told counts by its length alone."""
    before, known = "abcde" * 20, sessions()
    with known.turn(request(before, seen=50)) as older:
        older.add(said("foo(1)"))
    with known.turn(request(before + "foo("[:typed], seen=seen)) as turn:
        assert turn.typed == (typed if goes_on else None)


@pytest.mark.parametrize(
    ("at", "same"), [(-1, False), (-_COMPARED_CHARACTERS, False), (-_COMPARED_CHARACTERS - 1, True)]
)
def test_so_many_characters_before_the_cursor_have_to_be_the_same(at: int, same: bool) -> None:
    before, known = "a" * (_COMPARED_CHARACTERS + 10), sessions()
    with known.turn(request(before, prompts=[[1]])) as older:
        older.add(said("foo(1)"))
    changed = before[: len(before) + at] + "b" + before[len(before) + at + 1 :]
    with known.turn(request(changed + "f", prompts=[[1]])) as turn:
        assert turn.typed == (1 if same else None)


def test_the_continuation_is_the_older_prompt_with_all_that_came_after_it() -> None:
    generation = Generation.of(request(), request().session)  # type: ignore[arg-type]
    generation.add(said("foo(1)"))
    asked = Request("r-0", [9], SamplingParams(max_tokens=8, temperature=0.5), priority=3)
    going_on = generation.continuation(asked, 5)
    assert going_on.prompt_ids == [*tokens().encode("x = "), *tokens().encode("foo(1)")]
    assert (going_on.params.max_tokens, going_on.params.temperature, going_on.priority) == (5, 0.5, 3)


def test_a_session_is_known_until_its_time_is_over() -> None:
    now = [100.0]
    known = Sessions(tokens(), clock=lambda: now[0])
    with known.turn(request()) as older:
        older.add(said("foo(1)"))
    now[0] += LIFETIME_S - 0.5
    with known.turn(request("x = f")) as turn:
        assert turn.typed == 1, "and it lives on from now"
    now[0] += LIFETIME_S
    with known.turn(request("x = fo")) as turn:
        assert turn.typed is None
    assert len(known) == 1
