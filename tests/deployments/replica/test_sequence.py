"""One sequence from token ids to deltas."""

from __future__ import annotations

import functools
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.protocol import Delta, GenerationRequest, gather
from deployments.replica.sequence import SequenceText
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
