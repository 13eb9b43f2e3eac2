"""Fill-in-the-middle and repository prompts: their shape, what is cut, and that typing keeps the cache."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json.decoder
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.text.fim import ContextFile, FimPrompt, RepositoryContext, UnsupportedError
from model.text.tokenizer import Tokenizer
from model.text.truncation import anchor_stride, left_cut, split_window
from tests.support.tokenizers import STARCODER_SPECIAL, santacoder_rules, starcoder_rules

STARCODER = Tokenizer(starcoder_rules())
SANTACODER = Tokenizer(santacoder_rules())
EOS, PREFIX, MIDDLE, SUFFIX, _PAD, FILENAME = range(6)
REPONAME = 18
SOURCE = inspect.getsource(textwrap)
OTHER = inspect.getsource(json.decoder)
BLOCK = 16

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
markerless = text.filter(lambda value: "<" not in value)
hostile = st.lists(text | st.sampled_from(STARCODER_SPECIAL), max_size=6).map("".join)
modes = st.sampled_from(["psm", "spm"])


def render(prefix: str, suffix: str, mode: str = "psm", max_tokens: int = 8192, **options) -> list[int]:
    return STARCODER.render_fim(prefix, suffix, mode=mode, max_tokens=max_tokens, block_size=BLOCK, **options)


def parts(ids: list[int]) -> tuple[list[int], list[int]]:
    """Prefix and suffix of a rendered prompt, read back by the definition of the two shapes."""
    middle, suffix = ids.index(MIDDLE), ids.index(SUFFIX)
    if ids[ids.index(PREFIX) + 1] == SUFFIX and middle != len(ids) - 1:  # SPM
        return ids[middle + 1 :], ids[suffix + 1 : middle]
    assert middle == len(ids) - 1
    return ids[ids.index(PREFIX) + 1 : suffix], ids[suffix + 1 : middle]


@given(prefix=hostile, suffix=hostile)
def test_the_two_shapes(prefix: str, suffix: str) -> None:
    before, after = STARCODER.encode(prefix), STARCODER.encode(suffix)
    assert render(prefix, suffix, "psm") == [PREFIX, *before, SUFFIX, *after, MIDDLE]
    assert render(prefix, suffix, "spm") == [PREFIX, SUFFIX, *after, MIDDLE, *before]


def test_santacoder_uses_its_own_markers() -> None:
    fim = SANTACODER.fim
    assert fim is not None
    ids = SANTACODER.render_fim("a", "b", mode="psm", max_tokens=64, block_size=BLOCK)
    names = [SANTACODER.token_bytes(id).decode() for id in ids]
    assert names == ["<fim-prefix>", "a", "<fim-suffix>", "b", "<fim-middle>"]


def test_prefix_and_suffix_are_encoded_apart() -> None:
    """The cut may split what one token would hold; joined text would hide that from the model."""
    word = next(STARCODER.token_text(id) for id in range(300, STARCODER.vocab_size))
    ids = render(word[:1], word[1:])
    assert parts(ids) == (STARCODER.encode(word[:1]), STARCODER.encode(word[1:]))


def test_without_fim_tokens_a_suffix_is_refused() -> None:
    rules = starcoder_rules()
    rules["added_tokens"] = [token for token in rules["added_tokens"] if "fim" not in token["content"]]
    tokenizer = Tokenizer(rules)
    assert tokenizer.fim is None
    with pytest.raises(UnsupportedError, match="suffix"):
        tokenizer.render_fim("a", "b", mode="psm", max_tokens=64, block_size=BLOCK)
    assert tokenizer.parse_fim("<fim_prefix>a<fim_suffix>b<fim_middle>") is None


# Raw prompts that an editor templated itself


@given(prefix=markerless, suffix=markerless, mode=modes)
def test_raw_fim_prompt_gives_the_ids_of_the_template(prefix: str, suffix: str, mode: str) -> None:
    raw = {
        "psm": f"<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>",
        "spm": f"<fim_prefix><fim_suffix>{suffix}<fim_middle>{prefix}",
    }[mode]
    assert STARCODER.encode_prompt(raw) == render(prefix, suffix, mode)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("<fim_prefix>a<fim_suffix>b<fim_middle>", FimPrompt("psm", "a", "b")),
        ("<fim_prefix><fim_suffix>b<fim_middle>a", FimPrompt("spm", "a", "b")),
        ("<fim_prefix><fim_suffix><fim_middle>", FimPrompt("psm", "", "")),
        ("<fim_prefix>a<fim_suffix>b<fim_middle>c", FimPrompt("psm", "a", "b", started="c")),
        ("x<|endoftext|><fim_prefix>a<fim_suffix>b<fim_middle>", FimPrompt("psm", "a", "b", "x<|endoftext|>")),
        (
            "<fim_prefix><reponame>r<filename>p.py\na<b<fim_suffix>c<fim_middle>",
            FimPrompt("psm", "a<b", "c", header="<reponame>r<filename>p.py\n"),
        ),
        ("<fim_prefix>a<fim_middle>b<fim_suffix>c", None),
        ("<fim_suffix>b<fim_prefix>a<fim_middle>", None),
        ("no markers", None),
    ],
)
def test_parse_fim(raw: str, expected: FimPrompt | None) -> None:
    assert STARCODER.parse_fim(raw) == expected


def test_markers_inside_the_edited_file_stay_text() -> None:
    suffix = 'tokens = ["<fim_suffix>", "<|endoftext|>", "<fim_middle>"]\n'
    prefix = 'name = "<filename>"\n'
    assert STARCODER.encode_prompt(f"<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>") == render(prefix, suffix)


def test_few_shot_raw_prompt_keeps_its_examples() -> None:
    shot = "<fim_prefix>a<fim_suffix>b<fim_middle>c<|endoftext|>"
    ids = STARCODER.encode_prompt(shot + "<fim_prefix>d<fim_suffix>e<fim_middle>")
    example = [*render("a", "b"), *STARCODER.encode("c"), EOS]
    assert ids == example + render("d", "e")


@given(raw=hostile)
def test_raw_prompts_always_keep_their_text(raw: str) -> None:
    assert STARCODER.decode(STARCODER.encode_prompt(raw), skip_special=False) == raw


# Truncation


@given(
    prefix=st.integers(0, 5000),
    suffix=st.integers(0, 5000),
    budget=st.integers(1, 2000),
    block=st.sampled_from([1, 8, 16, 32]),
    share=st.floats(0, 0.9),
)
def test_split_window_fits_and_wastes_little(prefix: int, suffix: int, budget: int, block: int, share: float) -> None:
    stride = anchor_stride(budget, block)
    split = split_window(prefix, suffix, budget, stride, share)
    kept_prefix, kept_suffix = prefix - split.prefix_start, split.suffix_end
    assert 0 <= kept_prefix <= prefix
    assert 0 <= kept_suffix <= suffix
    assert kept_prefix + kept_suffix <= budget
    if prefix + suffix <= budget:
        assert (kept_prefix, kept_suffix) == (prefix, suffix)
    else:
        assert kept_prefix + kept_suffix > budget - stride
        assert kept_prefix >= min(prefix, (budget - int(budget * share)) // 2)
        assert kept_suffix >= min(suffix, int(budget * share))


@given(length=st.integers(0, 10_000), budget=st.integers(1, 2000), block=st.sampled_from([1, 16, 32]))
def test_left_cut_lies_on_an_anchor(length: int, budget: int, block: int) -> None:
    stride = anchor_stride(budget, block)
    cut = left_cut(length, budget, stride)
    assert 0 <= length - cut <= budget or cut == 0
    assert cut % stride == 0
    assert stride == 1 or stride % block == 0


@settings(deadline=None, max_examples=60)
@given(
    prefix=st.text(st.characters(exclude_categories=["Cs"]), max_size=600),
    suffix=st.text(st.characters(exclude_categories=["Cs"]), max_size=600),
    max_tokens=st.integers(4, 300),
    mode=modes,
)
def test_truncated_prompt_is_the_text_around_the_cursor(prefix: str, suffix: str, max_tokens: int, mode: str) -> None:
    """Whole characters only: a cut never leaves half of an emoji."""
    ids = render(prefix, suffix, mode, max_tokens)
    assert len(ids) <= max_tokens
    before, after = parts(ids)
    assert prefix.endswith(STARCODER.decode(before))
    assert suffix.startswith(STARCODER.decode(after))


def test_suffix_share_is_settable() -> None:
    long = SOURCE * 3
    kept = {share: len(parts(render(long, long, max_tokens=1000, suffix_share=share))[1]) for share in (0.0, 0.25, 0.5)}
    assert kept[0.0] == 0
    assert kept[0.25] == int(997 * 0.25)
    assert kept[0.5] == int(997 * 0.5)
    with pytest.raises(ValueError, match="suffix_share"):
        render("a", "b", suffix_share=1.0)


def test_unused_budget_flows_to_the_other_side() -> None:
    short_prefix = len(parts(render("x = 1\n", SOURCE * 3, max_tokens=1000))[1])
    short_suffix = len(parts(render(SOURCE * 3, "x = 1\n", max_tokens=1000))[0])
    assert short_prefix > 900
    assert short_suffix > 900


def test_window_without_room_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no room"):
        render("a", "b", max_tokens=3)
    with pytest.raises(ValueError, match="no room"):
        STARCODER.render_plain("a", max_tokens=0, block_size=BLOCK)


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
    mode: str, start: int, suffix_chars: int, max_tokens: int, with_context: bool
) -> None:
    """Type 150 characters of real code one by one; count the keystrokes that lose more than the last word."""
    context = RepositoryContext("repo", "a.py", (ContextFile("b.py", OTHER),)) if with_context else None
    suffix = SOURCE[8000 : 8000 + suffix_chars]
    prompts = [
        render(SOURCE[:cursor], suffix, mode, max_tokens, context=context) for cursor in range(start, start + 150)
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
    prompts = [render(SOURCE[:cursor], "", "spm", max_tokens) for cursor in range(9000, 9300)]
    starts = [tuple(ids[3 : 3 + BLOCK]) for ids in prompts]
    jumps = sum(old != new for old, new in itertools.pairwise(starts))
    assert jumps == len(set(starts)) - 1
    typed = len(STARCODER.encode(SOURCE[:9300])) - len(STARCODER.encode(SOURCE[:9000]))
    # Text is cut before it is encoded, too: that start moves every two characters for a token of the window.
    assert 1 <= jumps <= typed // stride + 1 + 300 // (2 * max_tokens) + 1
    assert all(len(ids) > max_tokens - 2 * stride for ids in prompts)


def test_very_long_documents_are_cut_before_they_are_encoded() -> None:
    ids = render("x" * 50 + "\n" + SOURCE * 200, SOURCE * 200, "psm", 256)
    assert len(ids) <= 256
    before, after = parts(ids)
    assert (SOURCE * 2).endswith(STARCODER.decode(before))
    assert (SOURCE * 2).startswith(STARCODER.decode(after))


# Repository context


def test_repository_context_has_starcoders_format() -> None:
    context = RepositoryContext("acme/app", "src/main.py", (ContextFile("src/util.py", "def f(): ...\n"),))
    document = [
        REPONAME,
        *STARCODER.encode("acme/app"),
        FILENAME,
        *STARCODER.encode("src/util.py"),
        *STARCODER.encode("\ndef f(): ...\n"),
        EOS,
    ]
    header = [REPONAME, *STARCODER.encode("acme/app"), FILENAME, *STARCODER.encode("src/main.py")]
    header += STARCODER.encode("\n")
    prefix, suffix = STARCODER.encode("import util\n"), STARCODER.encode("\nmain()\n")
    assert render("import util\n", "\nmain()\n", "psm", context=context) == [
        *document, PREFIX, *header, *prefix, SUFFIX, *suffix, MIDDLE
    ]  # fmt: skip
    assert render("import util\n", "\nmain()\n", "spm", context=context) == [
        *document, PREFIX, SUFFIX, *suffix, MIDDLE, *header, *prefix
    ]  # fmt: skip
    plain = STARCODER.render_plain("import util\n", max_tokens=4096, block_size=BLOCK, context=context)
    assert plain == [*document, *header, *prefix]


@settings(deadline=None)
@given(name=hostile, path=hostile, content=hostile, prefix=hostile)
def test_repository_context_cannot_inject_special_tokens(name: str, path: str, content: str, prefix: str) -> None:
    context = RepositoryContext(name, path, (ContextFile(path, content),))
    ids = render(prefix, "", context=context)
    counts = {token: ids.count(token) for token in STARCODER.special_ids if token in ids}
    allowed = {PREFIX: 1, SUFFIX: 1, MIDDLE: 1, FILENAME: 2, REPONAME: 2, EOS: 1}
    assert all(count <= allowed.get(token, 0) for token, count in counts.items())


def test_context_is_given_up_before_the_text_at_the_cursor() -> None:
    files = (ContextFile("b.py", SOURCE[:600]), ContextFile("c.py", OTHER[:600]))
    context = RepositoryContext("repo", None, files)
    sizes = []
    for length in range(0, 4000, 400):
        ids = render(SOURCE[:length], "pass\n", "spm", 1024, context=context)
        assert len(ids) <= 1024
        text_at_cursor = STARCODER.decode(ids[ids.index(MIDDLE) + 1 :])
        assert text_at_cursor.endswith(SOURCE[:length][-1200:])
        sizes.append(ids.index(PREFIX))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 400
    assert sizes[-1] == 0


def test_the_last_file_goes_first_so_that_the_front_stays() -> None:
    files = (ContextFile("b.py", SOURCE[:900]), ContextFile("c.py", OTHER[:900]))
    whole = render("x", "", context=RepositoryContext(None, None, files))
    short = render("x", "", max_tokens=500, context=RepositoryContext(None, None, files))
    front = short[: short.index(PREFIX) - 1]
    assert front == whole[: len(front)]
    assert short.count(FILENAME) >= 1


def test_santacoder_has_no_repository_tokens() -> None:
    context = RepositoryContext("repo", "a.py")
    with pytest.raises(UnsupportedError, match="<reponame>"):
        SANTACODER.render_plain("x", max_tokens=64, block_size=BLOCK, context=context)


def test_an_absurd_path_does_not_push_out_the_text() -> None:
    ids = render("x = 1\n", "", max_tokens=64, context=RepositoryContext(None, "p/" * 500))
    assert STARCODER.decode(ids) == "x = 1\n"


@given(value=st.text(st.characters(exclude_categories=["Cs"]), max_size=500), max_tokens=st.integers(1, 100))
def test_plain_prompts_keep_their_end(value: str, max_tokens: int) -> None:
    ids = STARCODER.render_plain(value, max_tokens=max_tokens, block_size=BLOCK)
    assert len(ids) <= max_tokens
    assert value.endswith(STARCODER.decode(ids))
