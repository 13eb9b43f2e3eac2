"""Prompts that fit a window: their shape, what is cut, and that typing keeps the cache."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.text.context import ContextFile, RepositoryContext
from model.text.fim import FimMode, UnsupportedError
from model.text.prompts import Infill, Plain, PromptForm, PromptTooLongError, Raw, render
from model.text.tokenizer import Tokenizer
from model.text.truncation import Window, anchor_stride, round_up
from tests.support.infills import BLOCK, MIDDLE, OTHER, PREFIX, SOURCE, STARCODER, SUFFIX, hostile, infill, modes, parts
from tests.support.tokenizers import santacoder_rules, starcoder_rules

SANTACODER = Tokenizer(santacoder_rules())


@given(prefix=hostile, suffix=hostile)
def test_the_two_shapes(prefix: str, suffix: str) -> None:
    before, after = STARCODER.encode(prefix), STARCODER.encode(suffix)
    assert infill(prefix, suffix, "psm") == [PREFIX, *before, SUFFIX, *after, MIDDLE]
    assert infill(prefix, suffix, "spm") == [PREFIX, SUFFIX, *after, MIDDLE, *before]


def test_santacoder_uses_its_own_markers() -> None:
    fim = SANTACODER.fim
    assert fim is not None
    ids = render(SANTACODER, "a", Infill("psm", "b"), Window(64, BLOCK))
    names = [SANTACODER.token_bytes(id).decode() for id in ids]
    assert names == ["<fim-prefix>", "a", "<fim-suffix>", "b", "<fim-middle>"]


def test_prefix_and_suffix_are_encoded_apart() -> None:
    """The cut may split what one token would hold; joined text would hide that from the model."""
    word = next(STARCODER.token_text(id) for id in range(300, STARCODER.vocab_size))
    ids = infill(word[:1], word[1:])
    assert parts(ids) == (STARCODER.encode(word[:1]), STARCODER.encode(word[1:]))


def test_without_fim_tokens_a_suffix_is_refused() -> None:
    rules = starcoder_rules()
    rules["added_tokens"] = [token for token in rules["added_tokens"] if "fim" not in token["content"]]
    tokenizer = Tokenizer(rules)
    assert tokenizer.fim is None
    with pytest.raises(UnsupportedError, match="suffix"):
        render(tokenizer, "a", Infill("psm", "b"), Window(64, BLOCK))
    assert tokenizer.parse_fim("<fim_prefix>a<fim_suffix>b<fim_middle>") is None


@settings(deadline=None, max_examples=60)
@given(
    prefix=st.text(st.characters(exclude_categories=["Cs"]), max_size=600),
    suffix=st.text(st.characters(exclude_categories=["Cs"]), max_size=600),
    max_tokens=st.integers(4, 300),
    mode=modes,
)
def test_truncated_prompt_is_the_text_around_the_cursor(
    prefix: str, suffix: str, max_tokens: int, mode: FimMode
) -> None:
    """Whole characters only: a cut never leaves half of an emoji."""
    ids = infill(prefix, suffix, mode, max_tokens)
    assert len(ids) <= max_tokens
    before, after = parts(ids)
    assert prefix.endswith(STARCODER.decode(before))
    assert suffix.startswith(STARCODER.decode(after))


def test_suffix_share_is_settable() -> None:
    long = SOURCE * 3
    kept = {share: len(parts(infill(long, long, max_tokens=1000, suffix_share=share))[1]) for share in (0.0, 0.25, 0.5)}
    assert kept[0.0] == 0
    assert kept[0.25] == int(997 * 0.25)
    assert kept[0.5] == int(997 * 0.5)
    with pytest.raises(ValueError, match="suffix_share"):
        infill("a", "b", suffix_share=1.0)


def test_unused_budget_flows_to_the_other_side() -> None:
    short_prefix = len(parts(infill("x = 1\n", SOURCE * 3, max_tokens=1000))[1])
    short_suffix = len(parts(infill(SOURCE * 3, "x = 1\n", max_tokens=1000))[0])
    assert short_prefix > 900
    assert short_suffix > 900


def test_window_without_room_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no room"):
        infill("a", "b", max_tokens=3)
    with pytest.raises(ValueError, match="no room"):
        render(STARCODER, "a", Plain(), Window(0, BLOCK))


def block_hashes(ids: list[int]) -> list[str]:
    """The prefix cache's key of every full block: a chain over all ids before it."""
    chain, hashes = b"", []
    for start in range(0, len(ids) - BLOCK + 1, BLOCK):
        chain = hashlib.sha256(chain + repr(ids[start : start + BLOCK]).encode()).digest()
        hashes.append(chain.hex())
    return hashes


def shared_blocks(old: list[int], new: list[int]) -> int:
    pairs = zip(block_hashes(old), block_hashes(new), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(old), len(new)) // BLOCK)


@settings(deadline=None, max_examples=6)
@given(
    mode=modes,
    start=st.integers(0, 6000),
    suffix_chars=st.sampled_from([0, 300, 4000]),
    max_tokens=st.sampled_from([256, 700, 1024]),
    with_context=st.booleans(),
)
def test_typing_keeps_the_cache_except_at_anchor_jumps(
    mode: FimMode, start: int, suffix_chars: int, max_tokens: int, with_context: bool
) -> None:
    """Type 150 characters of real code one by one; count the keystrokes that lose more than the last word."""
    context = RepositoryContext("repo", "a.py", (ContextFile("b.py", OTHER),)) if with_context else None
    suffix = SOURCE[8000 : 8000 + suffix_chars]
    prompts = [
        infill(SOURCE[:cursor], suffix, mode, max_tokens, context=context) for cursor in range(start, start + 150)
    ]
    stride = anchor_stride(max_tokens - 3, BLOCK)
    jumps = 0
    for old, new in itertools.pairwise(prompts):
        # In PSM the suffix follows the cursor and has to be read again: only what is before counts.
        stable = old.index(SUFFIX) if mode == "psm" else len(old)
        # One typed character changes at most the tokens of the word and the white space at the cursor.
        if shared_blocks(old, new) < (stable - 24) // BLOCK:
            jumps += 1
    typed = len(STARCODER.encode(SOURCE[start : start + 150]))
    # The window's start and the suffix's or the context's end each jump once for a stride of new tokens. Around
    # the length that just fits, where nothing may be cut, a word's tokens can make it a few more.
    assert jumps <= 8 + 2 * (typed // stride + 1)
    assert len(prompts) > 5 * jumps


@pytest.mark.parametrize(("max_tokens", "stride"), [(512, 16), (800, 48)])
def test_a_sliding_window_moves_once_per_stride_and_never_back(max_tokens: int, stride: int) -> None:
    """Far beyond the window its start follows the cursor by jumps, also while a word's tokens come and go."""
    assert anchor_stride(max_tokens - 3, BLOCK) == stride
    prompts = [infill(SOURCE[:cursor], "", "spm", max_tokens) for cursor in range(9000, 9300)]
    starts = [tuple(ids[3 : 3 + BLOCK]) for ids in prompts]
    jumps = sum(old != new for old, new in itertools.pairwise(starts))
    assert jumps == len(set(starts)) - 1
    typed = len(STARCODER.encode(SOURCE[:9300])) - len(STARCODER.encode(SOURCE[:9000]))
    # Text is cut before it is encoded, too: that start moves every two characters for a token of the window.
    assert 1 <= jumps <= typed // stride + 1 + 300 // (2 * max_tokens) + 1
    assert all(len(ids) > max_tokens - 2 * stride for ids in prompts)


def test_very_long_documents_are_cut_before_they_are_encoded() -> None:
    ids = infill("x" * 50 + "\n" + SOURCE * 200, SOURCE * 200, "psm", 256)
    assert len(ids) <= 256
    before, after = parts(ids)
    assert (SOURCE * 2).endswith(STARCODER.decode(before))
    assert (SOURCE * 2).startswith(STARCODER.decode(after))


@given(value=st.text(st.characters(exclude_categories=["Cs"]), max_size=500), max_tokens=st.integers(1, 100))
def test_plain_prompts_keep_their_end(value: str, max_tokens: int) -> None:
    ids = render(STARCODER, value, Plain(), Window(max_tokens, BLOCK))
    assert len(ids) <= max_tokens
    assert value.endswith(STARCODER.decode(ids))


@pytest.mark.parametrize("form", [Raw(), Plain()], ids=["raw", "plain"])
@given(value=st.text(st.characters(exclude_categories=["Cs"]), max_size=500), max_tokens=st.integers(1, 100))
def test_a_continued_text_is_never_cut_inside_a_character(form: PromptForm, value: str, max_tokens: int) -> None:
    kept = b"".join(map(STARCODER.token_bytes, render(STARCODER, value, form, Window(max_tokens, BLOCK))))
    assert value.encode().endswith(kept)
    if len(kept) >= len(value[-1:].encode()):
        kept.decode()
    else:  # there is no room for the last character
        assert bool(kept) == isinstance(form, Raw)


@given(value=hostile, form=st.sampled_from([Raw(), Plain(), Infill("psm"), Infill("spm")]), length=st.integers(0, 40))
def test_what_is_not_to_be_cut_is_whole_or_refused(value: str, form: PromptForm, length: int) -> None:
    window, ids = Window(length, BLOCK, cuts=False), form.encode(STARCODER, value)
    if len(ids) <= length:
        assert render(STARCODER, value, form, window) == ids
    else:
        with pytest.raises(PromptTooLongError) as refusal:
            render(STARCODER, value, form, window)
        assert refusal.value.length == len(ids)


def test_ids_are_cut_at_an_anchor() -> None:
    ids = list(range(100, 1100))
    assert render(STARCODER, ids, Raw(), Window(1000, BLOCK)) == ids
    assert render(STARCODER, ids, Raw(), Window(320, BLOCK)) == ids[round_up(680, anchor_stride(320, BLOCK)) :]
    with pytest.raises(PromptTooLongError):
        render(STARCODER, ids, Raw(), Window(999, BLOCK, cuts=False))
