"""What one request fans out to, and many small pieces of news put together."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.attributed import Attribution, Source
from deployments.protocol import Delta, Earlier, GenerationRequest, StopRules, TakenOver, gather, gathered
from model.request import Request, SamplingParams, TokenLogprobs

TWO = GenerationRequest(request_id="r", prompts=[[1, 2], [3]], params=SamplingParams(max_tokens=9), n=1, best_of=2)


def changed(request: GenerationRequest, **fields: object) -> GenerationRequest:
    return msgspec.structs.replace(request, **fields)


def seeds(request: GenerationRequest) -> list[int | None]:
    return [sequence.params.seed for sequence in request.sequences()]


def test_a_request_fans_out_to_one_sequence_a_completion() -> None:
    ours = changed(TWO, priority=3, tenant="t", weight=2.5, service_class=2, cache_root="c")
    assert list(ours.sequences(barred_ids=(7,))) == [
        Request(
            f"r-{index}",
            prompt,
            TWO.params,
            3,
            tenant="t",
            weight=2.5,
            service_class=2,
            cache_root="c",
            barred_ids=(7,),
        )
        for index, prompt in enumerate(([1, 2], [1, 2], [3], [3]))
    ]


def test_a_clients_seed_repeats_prompts_and_tells_their_completions_apart() -> None:
    """A drawn one tells all apart; without either the engine draws."""
    seeded = changed(TWO, params=SamplingParams(seed=5), drawn_seed=100)
    assert seeds(seeded) == [5, 6, 5, 6]
    assert seeds(changed(TWO, drawn_seed=100)) == [100, 101, 102, 103]
    assert seeds(changed(TWO, params=SamplingParams(seed=0))) == [0, 1, 0, 1]
    assert seeds(TWO) == [None] * 4


@pytest.mark.parametrize(
    ("needed", "asked", "computed"), [(False, None, None), (True, None, 0), (True, 3, 3), (False, 3, 3)]
)
def test_rules_that_read_log_probabilities_have_them(needed: bool, asked: int | None, computed: int | None) -> None:
    params = SamplingParams(logprobs=asked, seed=1)
    request = changed(TWO, params=params, rules=StopRules(needs_logprobs=needed))
    assert [sequence.params.logprobs for sequence in request.sequences()] == [computed] * 4
    assert seeds(request) == [1, 2, 1, 2]


def test_another_engine_goes_on_where_one_has_died() -> None:
    known = TakenOver(prompt_ids=[8, 9], token_ids=[10], logprobs=[], typed=3, told=4)
    earlier = (
        *(Earlier(token_ids=[20, 21]), Earlier(token_ids=[22], taken_over=known)),
        *(Earlier(token_ids=[23], finished=True), Earlier()),
    )
    request = changed(TWO, request_id="r~2", attempt=2, earlier=earlier)
    assert [(one.prompt_ids, one.output_ids, one.params.max_tokens) for one in request.sequences()] == [
        ([1, 2], [20, 21], 9),
        ([8, 9, 10], [22], 5),
        ([3], [23], 9),
        ([3], [], 9),
    ]
    assert (request.first_id, request.unfinished) == ("r", 3)
    assert (TWO.first_id, TWO.unfinished) == ("r", 4)


def test_documents_with_line_ends_of_their_own_are_told_by_their_prompts() -> None:
    request = changed(TWO, dos_prompts=(1,))
    assert [request.is_dos(index) for index in range(4)] == [False, False, True, True]


PIECES = [
    Delta(
        index=1,
        text="a",
        token_ids=[1],
        logprobs=[TokenLogprobs(1, -0.5)],
        rule_logprobs=[-0.5],
        text_offsets=[0],
        prompt_logprobs=[None, TokenLogprobs(9, -1.0)],
        cached_tokens=16,
        queue_seconds=0.25,
        first_token_seconds=0.5,
        engine="e",
        replayed_tokens=1,
    ),
    Delta(index=1, text="b", token_ids=[2], replayed_tokens=2, cached_tokens=8),
    Delta(
        index=1,
        text="c",
        token_ids=[3, 4],
        logprobs=[TokenLogprobs(3, -0.1), TokenLogprobs(4, -0.2)],
        rule_logprobs=[-0.1, -0.2],
        text_offsets=[2, 3],
        finish_reason="stop",
        stop_reason="x",
        ended_by="block",
        ended_seconds=2.0,
        attributions=[Attribution(0, 3, [Source("f", 1)])],
        blocked=True,
    ),
]
WHOLE = Delta(
    index=1,
    text="abc",
    token_ids=[1, 2, 3, 4],
    logprobs=[TokenLogprobs(1, -0.5), TokenLogprobs(3, -0.1), TokenLogprobs(4, -0.2)],
    rule_logprobs=[-0.5, -0.1, -0.2],
    text_offsets=[0, 2, 3],
    prompt_logprobs=[None, TokenLogprobs(9, -1.0)],
    cached_tokens=16,
    queue_seconds=0.25,
    first_token_seconds=0.5,
    engine="e",
    replayed_tokens=3,
    finish_reason="stop",
    stop_reason="x",
    ended_by="block",
    ended_seconds=2.0,
    attributions=[Attribution(0, 3, [Source("f", 1)])],
    blocked=True,
)


def test_many_pieces_of_news_are_one_whole() -> None:
    before = msgspec.msgpack.encode(PIECES)
    whole: dict[int, Delta] = {}
    gather(whole, [PIECES[0], Delta(index=0, text="other"), *PIECES[1:]])
    assert whole == {0: Delta(index=0, text="other"), 1: WHOLE}
    assert msgspec.msgpack.encode(PIECES) == before, "what comes belongs to whoever sent it"


def test_what_only_a_later_piece_says_is_in_the_whole() -> None:
    whole: dict[int, Delta] = {}
    gather(whole, [Delta(index=1, queue_seconds=0.125), *PIECES])
    assert whole == {1: WHOLE}


@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=3)), max_size=12))
def test_in_whatever_order_they_come_texts_stay_with_their_completions(news: list[tuple[int, str]]) -> None:
    whole: dict[int, Delta] = {}
    for index, text in news:
        gather(whole, [Delta(index=index, text=text, token_ids=[ord(char) for char in text])])
    for index, delta in whole.items():
        assert delta.text == "".join(text for of, text in news if of == index)
        assert delta.token_ids == [ord(char) for char in delta.text]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_stream_that_is_gathered_is_closed(fails: bool) -> None:
    ended = []

    async def stream() -> AsyncGenerator[list[Delta], None]:
        try:
            yield [Delta(index=2, text="z"), PIECES[0]]
            if fails:
                raise ConnectionError
            yield PIECES[1:]
        finally:
            ended.append(True)

    if fails:
        with pytest.raises(ConnectionError):
            await gathered(stream())
    else:
        assert await gathered(stream()) == [WHOLE, Delta(index=2, text="z")]
    assert ended == [True]
