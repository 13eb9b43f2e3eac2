"""How the embedded model was trained: rows of documents and gaps, runs, the copying start, the baseline."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from model.pico import fim, network
from model.pico.corpus import Document
from model.pico.data import Stream, pieces
from model.pico.network import Network, Shape
from model.pico.ngram import NGram
from model.pico.start import OFFSETS, induction, point_at_suffix
from model.pico.tokenizer_training import END, train_tokenizer
from model.pico.train import Recipe, Run, learning_rate


@given(st.text(alphabet="ab \n\t#é", max_size=200), st.integers())
@settings(deadline=None)
def test_a_cut_joins_again(text: str, seed: int) -> None:
    assert "".join(fim.cut(text, random.Random(seed))) == text


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60), st.booleans())
@settings(deadline=None)
def test_an_arrangement_can_be_taken_apart(plain: Tokenizer, prefix: str, middle: str, suffix: str, spm: bool) -> None:
    parts = [plain.encode(t).ids for t in (prefix, middle, suffix)]
    ids = fim.arrange((parts[0], parts[1], parts[2]), spm)
    at = {name: ids.index(id) for name, id in (("prefix", 1), ("middle", 2), ("suffix", 3))}
    assert ids[-1] == END
    if spm:
        assert plain.decode(ids[at["suffix"] + 1 : at["middle"]]) == suffix
        assert ids[at["middle"] + 1 : -1] == [*parts[0], *parts[1]]
    else:
        assert plain.decode(ids[1 : at["suffix"]]) == prefix
        assert ids[at["middle"] + 1 : -1] == parts[1]
    assert ids[: -1 - len(parts[1])] == fim.prompt(parts[0], parts[2], spm)


@given(st.text(alphabet="abc\n", max_size=3000), st.integers(200, 900), st.integers())
@settings(deadline=None, max_examples=50)
def test_pieces_lose_nothing(text: str, longest: int, seed: int) -> None:
    assert "".join(pieces(text, longest, random.Random(seed))) == text


@pytest.fixture(scope="module")
def small(held_out: str) -> tuple[list[Document], Tokenizer]:
    documents = [Document("p", f"p/{i}.py", held_out[i * 97 : i * 97 + 2500], "train") for i in range(20)]
    return documents, train_tokenizer([held_out], 512)


def test_rows_are_full_and_half_of_them_infilling(small: tuple[list[Document], Tokenizer]) -> None:
    stream = Stream(*small, seed=3)
    rows = [stream.row(129) for _ in range(300)]
    assert {len(row) for row in rows} == {129}
    assert 0.45 < stream.state()["spent"]["fim"] / (300 * 129) < 0.55
    ids = [id % fim.MARK for row in rows for id in row]
    assert ids.count(1) >= 100
    assert abs(sum(a == 1 and b == 3 for a, b in itertools.pairwise(ids)) / ids.count(1) - 0.5) < 0.15


def test_the_middle_can_be_pointed_at_the_suffix(small: tuple[list[Document], Tokenizer]) -> None:
    torch.manual_seed(0)
    net = Network(Shape(512, n_positions=256, n_embd=64, n_layer=5, n_head=4))
    ids = Stream(*small, seed=3, fim_share=0.9, psm_share=1.0).batch(16, 200)[0]
    before = net(ids).detach()
    point_at_suffix(net, ids)
    middles = (ids == fim.FIM_MIDDLE).nonzero().tolist()
    assert middles
    seen: list[torch.Tensor] = []
    layer = net.get_submodule("h.4.attn.c_attn")
    hook = layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach()))
    after = net(ids).detach()
    hook.remove()
    query, key = seen[0][..., 48:64], seen[0][..., 64:80]  # the last of four heads of 16, then the shared key
    for row, place in middles:
        scores = (query[row, place] @ key[row, : place + 1].T) / 16**0.5
        suffixes = (ids[row, : place + 1] == fim.FIM_SUFFIX).nonzero().flatten()
        assert scores.softmax(0)[suffixes].sum() > 0.9
    others = (ids != fim.FIM_MIDDLE).cumprod(1).bool()  # rows before their first middle: nothing there looks elsewhere
    assert (after - before)[others].abs().mean() < 0.2 * before.std()


def test_plain_documents_are_whole(small: tuple[list[Document], Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.pico.data.HEADER_SHARE", 0.0)
    stream = Stream(*small, seed=3, fim_share=0.0)
    ids = [id for _ in range(100) for id in stream.row(100)]
    texts = small[1].decode(ids, skip_special_tokens=False).split("<|endoftext|>")
    assert set(texts[:-1]) <= {d.text for d in small[0]}


def test_a_special_tokens_name_in_a_file_stays_text(small: tuple[list[Document], Tokenizer]) -> None:
    assert not set(Stream(*small, seed=0).encode("a <|endoftext|> <fim_middle> b")) & set(range(19))


SHAPE = Shape(vocab_size=512, n_positions=256, n_embd=32, n_layer=2, n_head=4)

RECIPE = Recipe(steps=12, tokens_per_step=256, length=128, long_length=256, long_share=0.3)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_equals_one_that_was_not_stopped(
    small: tuple[list[Document], Tokenizer], tmp_path: Path, optimizer: str
) -> None:
    recipe = Recipe(**{**vars(RECIPE), "optimizer": optimizer})
    whole = Run(recipe, SHAPE, Stream(*small, seed=1))
    losses = [whole.train_step() for _ in range(12)]
    first = Run(recipe, SHAPE, Stream(*small, seed=1))
    head = [first.train_step() for _ in range(5)]
    first.save(tmp_path / "run.pt")
    second = Run(recipe, SHAPE, Stream(*small, seed=99))
    second.resume(tmp_path / "run.pt")
    assert second.step == 5
    second.run(tmp_path / "run.pt")
    assert second.step == 12
    assert losses[:5] == pytest.approx(head)
    for a, b in zip(whole.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert losses[-1] < losses[0]


def test_a_run_can_continue_from_a_checkpoint(small: tuple[list[Document], Tokenizer], tmp_path: Path) -> None:
    first = Run(RECIPE, SHAPE, Stream(*small, seed=1))
    first.train_step()
    network.export(first.network, tmp_path)
    (tmp_path / "training.json").write_text(json.dumps(first.facts()))
    second = Run(Recipe(**{**vars(RECIPE), "learning_rate": 1e-3}), SHAPE, Stream(*small, seed=2))
    second.continue_from(tmp_path)
    second.train_step()
    assert (second.tokens, second.step) == (512, 1)
    assert [phase["until_tokens"] for phase in second.phases()] == [256, 512]
    for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=0.02, rtol=0.02)


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    rates = [learning_rate(i / 1000, 1.0) for i in range(1001)]
    assert max(rates) == pytest.approx(1.0)
    assert rates[0] < 0.1
    assert rates[-1] == pytest.approx(0.0, abs=1e-6)
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_an_export_is_a_hugging_face_checkpoint(tmp_path: Path) -> None:
    net = Network(SHAPE)
    network.export(net, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["n_head"] == 4
    ids = torch.randint(0, 512, (2, 50))
    other = AutoModelForCausalLM.from_pretrained(str(tmp_path), dtype=torch.float32).eval()
    with torch.inference_mode():
        torch.testing.assert_close(network.load(tmp_path)(ids), other(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def copying() -> Network:
    """An untrained network whose first two layers were given the copying circuit."""
    torch.manual_seed(0)
    net = Network(Shape())
    induction(net)
    return net.eval()


def test_heads_that_start_looking_back_attend_to_their_offset(copying: Network) -> None:
    ids, positions = torch.randint(0, 4096, (1, 100)), torch.arange(700, 800)
    with torch.inference_mode():
        x = copying.h[0].ln_1(copying.wte(ids) + copying.wpe(positions))
        query, key, _ = copying.h[0].attn.c_attn(x)[0].split((256, 64, 64), -1)
    for head, offset in enumerate(OFFSETS):
        scores = query[:, head * 64 : (head + 1) * 64] @ key.T / 64**0.5
        weights = scores.masked_fill(torch.ones(100, 100).triu(1).bool(), -math.inf).softmax(-1)
        assert weights.diagonal(-offset).mean() > 0.5


def repeats_what_it_read(net: Network) -> float:
    """The share of a random sequence's second occurrence that is predicted from the first."""
    once = torch.randint(19, 4096, (4, 200), generator=torch.Generator().manual_seed(1))
    ids = torch.cat([once, once], 1)
    with torch.inference_mode():
        guesses = net(ids).argmax(-1)
    return float((guesses[:, 200:-1] == ids[:, 201:]).float().mean())


def test_the_induction_start_copies_untrained(copying: Network) -> None:
    assert repeats_what_it_read(copying) > 0.3
    assert repeats_what_it_read(Network(Shape())) < 0.01


def test_an_induction_start_needs_room() -> None:
    with pytest.raises(ValueError, match="width"):
        induction(Network(Shape(n_layer=2, n_embd=64, n_head=2)))


def test_blocked_attention_is_attention() -> None:
    query, key, value = torch.randn(2, 4, 128, 16), torch.randn(2, 128, 16), torch.randn(2, 128, 16)
    keys, values = (t[:, None].expand(2, 4, 128, 16) for t in (key, value))
    expected = F.scaled_dot_product_attention(query, keys, values, is_causal=True)
    torch.testing.assert_close(network.blocked_attention(query, key, value), expected, atol=1e-5, rtol=1e-5)


def test_the_5_gram_is_a_probability_and_learns() -> None:
    ids = np.array([random.Random(1).choice([1, 2, 3, 5, 8]) if i % 7 else 4 for i in range(3000)], np.int64)
    ngram = NGram(ids, 64)
    for context in ([], [4], [1, 2, 3], [63, 62, 61, 60, 59], ids[:40].tolist()):
        assert ngram.distribution(context).sum() == pytest.approx(1)
    sample = ids[:50]
    slow = -sum(math.log(ngram.distribution(sample[:i].tolist())[sample[i]]) for i in range(50))
    assert ngram.nats(sample) == pytest.approx(slow)
    repeated = NGram(np.array([7, 8, 9, 10, 0] * 50, np.int64), 64)
    assert repeated.greedy([7, 8], 10) == [9, 10]
