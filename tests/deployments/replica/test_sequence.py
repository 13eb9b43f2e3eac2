"""One sequence from token ids to deltas."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.protocol import Delta, Earlier, EditorSession, GenerationRequest, StopRules, TakenOver, gather
from deployments.replica import sequence as module
from deployments.replica.sequence import _REPLAYED_AT_ONCE, SequenceText, may_end_early, worth_sending
from model.request import Output, SamplingParams, TokenLogprobs
from model.text.tokenizer import Tokenizer
from tests.support.tokenizers import starcoder_rules

TEXT = "def größe(a):\n    return 漢字 + 🎉\n"


@functools.cache
def tokens() -> Tokenizer:
    return Tokenizer(starcoder_rules())


def sequence(stop: tuple[str, ...] = (), include: bool = False, **params: object) -> SequenceText:
    request = GenerationRequest(
        request_id="r",
        prompts=[[1]],
        params=SamplingParams(**params),  # type: ignore[arg-type]
        stop=stop,
        include_stop=include,
    )
    return SequenceText(0, request, tokens())


def run(text: SequenceText, outputs: list[Output]) -> Delta:
    whole: dict[int, Delta] = {}
    for output in outputs:
        gather(whole, [text.feed(output)])
        if text.finished:
            break
    return whole[0]


def outputs(ids: list[int], cuts: list[int], finish: str = "length", stop_token_id: int | None = None) -> list[Output]:
    edges = [0, *sorted(cuts), len(ids)]
    parts = [Output("r", ids[a:b]) for a, b in itertools.pairwise(edges)]
    parts[-1].finish_reason = finish  # type: ignore[assignment]
    parts[-1].stop_token_id = stop_token_id
    return parts


@given(st.lists(st.integers(0, 20), max_size=6), st.sampled_from([(), ("return",), ("\n", "x"), ("漢字 +",), ("🎉",)]))
def test_the_same_whatever_the_steps(cuts: list[int], stop: tuple[str, ...]) -> None:
    ids = tokens().encode(TEXT)
    whole = run(sequence(stop), outputs(ids, [min(cut, len(ids)) for cut in cuts]))
    hits = [TEXT.find(s) for s in stop if s in TEXT]
    assert whole.text == (TEXT[: min(hits)] if hits else TEXT)
    assert whole.finish_reason == ("stop" if hits else "length")
    one_by_one = run(sequence(stop), outputs(ids, list(range(len(ids)))))
    assert whole.token_ids == one_by_one.token_ids


def test_stop_string_in_the_text_if_wanted() -> None:
    whole = run(sequence(("return",), include=True), outputs(tokens().encode(TEXT), []))
    assert whole.text == TEXT[: TEXT.index("return") + len("return")]
    assert (whole.finish_reason, whole.stop_reason) == ("stop", "return")


@pytest.mark.parametrize("stop_token_id", [None, 0])
def test_tokens_behind_the_one_that_completes_a_stop_string_are_nobodys(stop_token_id: int | None) -> None:
    """A step with drafts draws several, and steps go on until the engine hears of the end."""
    ids = tokens().encode(TEXT)
    needed = next(n for n in range(len(ids)) if "return" in tokens().decode(ids[:n]))
    whole = [*ids, 0] if stop_token_id is not None else ids
    logprobs = [TokenLogprobs(token, -1.0, []) for token in whole]
    output = Output("r", whole, logprobs=logprobs, finish_reason="stop", stop_token_id=stop_token_id)
    delta = sequence(("return",), logprobs=0).feed(output)
    assert (delta.token_ids, delta.stop_reason) == (ids[:needed], "return")
    assert delta.logprobs == logprobs[:needed]
    assert delta.text_offsets is not None
    assert len(delta.text_offsets) == needed
    assert output.token_ids == ids[:needed], "they are not counted either"


def test_a_stop_string_that_names_a_special_token_stops_at_the_token() -> None:
    """It has no text that could match."""
    special = tokens().special["<jupyter_output>"]
    ids = [*tokens().encode("a = 1"), special]
    whole = run(sequence(("return", "<jupyter_output>")), outputs(ids, [], "stop", special))
    assert (whole.text, whole.finish_reason, whole.stop_reason) == ("a = 1", "stop", "<jupyter_output>")


def test_held_back_text_comes_out_at_the_end() -> None:
    text = sequence(("+ 🎉!",))
    whole = run(text, outputs(tokens().encode("a + 🎉"), [1, 2, 3]))
    assert whole.text == "a + 🎉"
    assert whole.finish_reason == "length"


@pytest.mark.parametrize(("wanted", "reason"), [((5,), 5), ((), None)])
def test_stop_token_has_no_text(wanted: tuple[int, ...], reason: int | None) -> None:
    """A token that the request names is the reason; end-of-text needs none."""
    ids = [*tokens().encode("abc"), 5 if wanted else 0]
    whole = run(sequence(stop_token_ids=wanted), outputs(ids, [], finish="stop", stop_token_id=ids[-1]))
    assert whole.text == "abc"
    assert (whole.finish_reason, whole.stop_reason) == ("stop", reason)
    assert whole.token_ids == ids


def test_no_stop_string_within_min_tokens() -> None:
    ids = tokens().encode("x y x y x")
    first_y = len(tokens().encode("x y"))
    whole = run(sequence(("y",), min_tokens=first_y), outputs(ids, [1, 2]))
    assert whole.text == "x y x "


@pytest.mark.parametrize("shown", [False, True])
async def test_what_is_typed_is_counted_as_it_was_shown(shown: bool) -> None:
    """Special tokens are text where the request wants them to be, and nothing where it does not."""
    special = tokens().special["<jupyter_output>"]
    typed, rest = tokens().encode("a = 1"), tokens().encode(" b c d e")
    assert len(rest) > 2
    params = SamplingParams(max_tokens=2)
    request = GenerationRequest(request_id="r", prompts=[[1]], params=params, skip_special=not shown)
    text = SequenceText(0, request, tokens())
    characters = len("a = 1<jupyter_output>" if shown else "a = 1")
    ids = [*typed, special, *rest] if shown else [*typed, *rest]
    delta = await text.replay(ids, [-1.0] * len(ids), characters, Output("", finish_reason="stop"))
    assert (delta.text, delta.token_ids) == (tokens().decode(rest[:2]), rest[:2])
    assert delta.finish_reason == "length", "of what comes behind the typed text no more is told than was asked for"


def test_offsets_of_every_token() -> None:
    ids = [*tokens().encode(TEXT), 0]
    parts = outputs(ids, [3, 7], finish="stop", stop_token_id=0)
    for part in parts:
        part.logprobs = [TokenLogprobs(id, -1.0) for id in part.token_ids]
    whole = run(sequence(logprobs=0), parts)
    assert whole.text_offsets is not None
    assert whole.logprobs is not None
    assert len(whole.text_offsets) == len(whole.logprobs) == len(ids)
    assert whole.text_offsets == sorted(whole.text_offsets)
    assert whole.text_offsets[-1] == len(TEXT)
    for (id, start), end in zip(
        zip(ids, whole.text_offsets, strict=True), [*whole.text_offsets[1:], None], strict=True
    ):
        if id and "\ufffd" not in tokens().token_text(id):
            assert TEXT[start:end] == tokens().token_text(id)


CASES = [((), None), (("漢字 +",), None), ((), StopRules(mode="line", prefixes=("",), suffixes=("",)))]


@pytest.mark.parametrize(("stop", "rules"), CASES, ids=["engine", "stop", "rules"])
def test_one_that_goes_on_tells_what_its_client_does_not_have(stop: tuple[str, ...], rules: StopRules | None) -> None:
    """Wherever the engine died: also within a character, or within what could become a stop string."""

    def text_of(earlier: Earlier | None = None) -> SequenceText:
        known = () if earlier is None else (earlier,)
        params = SamplingParams(logprobs=0)
        request = GenerationRequest(request_id="r", prompts=[[1]], params=params, stop=stop, rules=rules, earlier=known)
        return SequenceText(0, request, tokens())

    ids = tokens().encode(TEXT)
    whole = run(text_of(), outputs(ids, []))
    assert whole.text_offsets is not None
    for died in range(len(ids)):
        first = text_of()
        told = first.feed(Output("r", ids[:died]))
        if first.finished:
            break
        rest = run(text_of(Earlier(token_ids=ids[:died], logprobs=[-1.0] * died)), outputs(ids[died:], []))
        assert (told.text + rest.text, told.token_ids + rest.token_ids) == (whole.text, whole.token_ids)
        assert (rest.finish_reason, rest.stop_reason, rest.ended_by) == (
            whole.finish_reason,
            whole.stop_reason,
            whole.ended_by,
        )
        assert rest.text_offsets == whole.text_offsets[died:]
    assert died > 1


@pytest.mark.parametrize("typed", [0, 1, 9])
def test_one_that_goes_on_behind_what_was_taken_over_has_told_what_was_not_typed(typed: int) -> None:
    ids = tokens().encode("x = foo(1)\n\ny = 2")
    for ahead, died in ((3, 5), (6, 6), (len(ids) - 1, len(ids) - 1)):
        known = TakenOver(prompt_ids=[1], token_ids=ids[:ahead], logprobs=[-1.0] * ahead, typed=typed, told=0)
        earlier = Earlier(token_ids=ids[ahead:died], logprobs=[-1.0] * (died - ahead), taken_over=known)
        request = GenerationRequest(
            request_id="r", prompts=[[1]], params=SamplingParams(), stop=("never",), earlier=(earlier,)
        )
        delta = run(SequenceText(0, request, tokens()), outputs(ids[died:], []))
        told = tokens().decode(ids[:died])[typed:]
        assert told + delta.text == "x = foo(1)\n\ny = 2"[typed:]


def test_one_that_had_ended_on_the_engine_before_is_whole() -> None:
    request = GenerationRequest(
        request_id="r", prompts=[[1], [1]], params=SamplingParams(), earlier=(Earlier(), Earlier(finished=True))
    )
    assert [SequenceText(index, request, tokens()).finished for index in (0, 1)] == [False, True]


@pytest.mark.parametrize("told", [None, 0])
def test_log_probabilities_are_told_to_the_client_or_to_the_ingress_alone(told: int | None) -> None:
    """They may be there because a stop rule reads them: whoever resumes the sequence needs them again."""
    entries = [TokenLogprobs(5, -1.5, []), TokenLogprobs(6, -2.5, [])]
    delta = sequence(logprobs=told).feed(Output("r", [5, 6], logprobs=entries, queue_seconds=0.5, cached_tokens=3))
    assert (delta.logprobs, delta.rule_logprobs) == ((None, [-1.5, -2.5]) if told is None else (entries, None))
    assert (delta.queue_seconds, delta.cached_tokens) == (0.5, 3)
    assert (delta.text_offsets is None) is (told is None)
    assert sequence(logprobs=told).feed(Output("r", [5])).rule_logprobs is None


def test_min_tokens_are_counted_over_all_steps_and_where_the_client_already_has_some() -> None:
    ids = tokens().encode("y y y y y y")
    for steps in ([], [1], [1, 2, 3], [2]):
        whole = run(sequence(("y",), min_tokens=3), outputs(ids, steps))
        assert (whole.text, len(whole.token_ids)) == ("y y y ", 4)


@pytest.mark.parametrize("long", [False, True])
async def test_what_an_earlier_request_generated_is_told_but_for_what_has_been_typed(long: bool) -> None:
    many = 3 * _REPLAYED_AT_ONCE if long else 5
    ids = tokens().encode("a b" * many)
    whole = tokens().decode(ids)
    typed = len(whole) // 2
    text = sequence(max_tokens=len(ids))
    delta = await text.replay(ids, [-1.0] * len(ids), typed, None)
    assert delta.text == whole[typed:]
    assert tokens().decode(delta.token_ids).endswith(delta.text[1:])
    assert (delta.finish_reason, text.finished) == (None, False)
    rest = text.feed(Output("r", ids[:2], finish_reason="length"))
    assert rest.text == tokens().decode(ids[:2])
    assert text.finished


async def test_what_is_told_of_a_long_one_is_counted_from_where_the_typed_text_ends() -> None:
    """Its tokens are looked at some at a time."""
    ids = tokens().encode("identifier = 1\n" * _REPLAYED_AT_ONCE + "a b c d e f g h")
    typed = len("identifier = 1\n" * _REPLAYED_AT_ONCE)
    finish = Output("", finish_reason="stop", stop_token_id=tokens().eos_id)
    for wanted, reason in ((3, "length"), (8, "stop"), (9, "stop")):
        delta = await sequence(max_tokens=wanted).replay(ids, [-1.0] * len(ids), typed, finish)
        assert delta.token_ids == ids[-8:][:wanted]
        assert (delta.text, delta.finish_reason) == (tokens().decode(ids[-8:][:wanted]), reason)


def ruled(stop: tuple[str, ...] = (), **rules: Any) -> SequenceText:
    """`auto` rules of Python, unless something else is said."""
    asked = StopRules(**({"mode": "auto", "language": "python", "prefixes": ("",), "suffixes": ("",)} | rules))
    params = SamplingParams(min_tokens=0)
    request = GenerationRequest(request_id="r", prompts=[[1]], params=params, stop=stop, rules=asked)
    return SequenceText(0, request, tokens())


@pytest.mark.parametrize("step", [1, 2, 100])
def test_a_rule_or_a_stop_string_ends_it_whichever_comes_first(step: int) -> None:
    ids = tokens().encode("x = foo(1)\nreturn 2\n")
    steps = list(range(step, len(ids), step))
    by_rule = run(ruled(("return",), mode="line"), outputs(ids, steps))
    assert (by_rule.text, by_rule.finish_reason, by_rule.stop_reason) == ("x = foo(1)", "stop", None)
    assert by_rule.ended_by == "line"
    by_stop = run(ruled(("(1",), mode="line"), outputs(ids, steps))
    assert (by_stop.text, by_stop.finish_reason, by_stop.stop_reason) == ("x = foo", "stop", "(1")
    assert by_stop.ended_by is None
    by_engine = run(ruled(mode="line"), outputs(ids[:4], steps, finish="length"))
    assert (by_engine.text, by_engine.finish_reason, by_engine.ended_by) == (tokens().decode(ids[:4]), "length", None)


async def test_rules_read_each_token_with_its_own_log_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipeline:
        ended, ended_by = False, None
        pushed: ClassVar[list[tuple[str, list[float]]]] = []

        def push(self, text: str, logprobs: Sequence[float] = ()) -> str:
            self.pushed.append((text, list(logprobs)))
            return text

        def flush(self) -> str:
            return ""

    monkeypatch.setattr(module, "build_pipeline", lambda *_: Pipeline())
    ids = tokens().encode("a b c")
    entries = [TokenLogprobs(id, -float(number), []) for number, id in enumerate(ids)]
    pairs = [(tokens().decode([id]), [-float(number)]) for number, id in enumerate(ids)]
    ruled().feed(Output("r", ids, logprobs=entries))
    assert Pipeline.pushed == pairs
    Pipeline.pushed.clear()
    await ruled().replay(ids, [-float(number) for number in range(len(ids))], 0, None)
    assert Pipeline.pushed == pairs


@pytest.mark.parametrize(
    ("more", "may"),
    [
        ({}, False),
        ({"stop": ("x",)}, True),
        ({"rules": StopRules()}, True),
        ({"session": EditorSession(key="k", prefix="", prefix_length=0, surroundings="")}, True),
        ({"max_time_ms": 1}, True),
    ],
)
def test_who_may_end_a_sequence_beside_engine_and_client(more: dict[str, Any], may: bool) -> None:
    assert may_end_early(GenerationRequest(request_id="r", prompts=[[1]], params=SamplingParams(), **more)) is may


@pytest.mark.parametrize(
    ("delta", "worth"),
    [
        (Delta(index=0), False),
        (Delta(index=0, queue_seconds=1.0, cached_tokens=5), False),
        (Delta(index=0, token_ids=[1]), True),
        (Delta(index=0, text="x"), True),
        (Delta(index=0, finish_reason="stop"), True),
        (Delta(index=0, prompt_logprobs=[None]), True),
    ],
)
def test_a_step_that_gave_nothing_is_not_sent(delta: Delta, worth: bool) -> None:
    assert worth_sending(delta) is worth


def test_half_a_character_at_the_end_is_shown_as_what_it_is() -> None:
    ids = tokens().encode("a 𓀀")[:-1]
    for stop in ((), ("never",)):
        whole = run(sequence(stop), outputs(ids, []))
        assert (whole.text, whole.finish_reason) == (tokens().decode(ids), "length")
        assert whole.text.endswith("\ufffd")
