"""The embedded model: its files, its tokenizer, what it knows, and the parts of its training."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTBigCodeForCausalLM

from model.pico import CHECKPOINT, card, cases, corpus, evaluate, fim, network
from model.pico.corpus import Deduplicator, Document, licence_allowed, path_allowed, split_of, text_allowed
from model.pico.data import Stream, pieces
from model.pico.network import Network, Shape
from model.pico.ngram import NGram
from model.pico.start import OFFSETS, induction, point_at_suffix
from model.pico.tokenizer_training import END, SPECIAL_TOKENS, plain_encoder, train_tokenizer
from model.pico.train import Recipe, Run, learning_rate

HELD_OUT = Path(__file__).parents[1] / "data" / "pico_heldout.txt"
HELD_OUT_BITS = 0.927
"""Bits per byte of the held-out sample, measured when the checkpoint was made."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(str(CHECKPOINT))


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(str(CHECKPOINT), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def plain() -> Tokenizer:
    return plain_encoder(Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json")))


def test_the_checkpoint_is_complete_and_small() -> None:
    files = {file.name: file.stat().st_size for file in CHECKPOINT.iterdir()}
    assert files.keys() >= {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "README.md"}
    assert sum(files.values()) <= 16_000_000


def test_it_loads_as_a_starcoder(model: Any, tokenizer: Any) -> None:
    assert type(model) is GPTBigCodeForCausalLM
    assert model.config.multi_query
    assert model.config.n_positions >= 2048
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.vocab_size % 64 == model.config.n_head % 4 == model.config.n_inner % 8 == 0


def test_special_tokens_have_starcoders_ids(tokenizer: Any) -> None:
    assert tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS) == list(range(19))
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == END
    assert tokenizer("<fim_prefix>a<fim_middle>").input_ids[0] == 1


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_round_trips(text: str) -> None:
    encoder = _plain()
    ids = encoder.encode(text, add_special_tokens=False).ids
    assert encoder.decode(ids, skip_special_tokens=False) == text
    assert not set(ids) & set(range(19))


def _plain(made: list[Tokenizer] = []) -> Tokenizer:  # noqa: B006
    if not made:
        made.append(plain_encoder(Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))))
    return made[0]


def test_digits_are_single_tokens(plain: Tokenizer) -> None:
    assert [t.lstrip("Ġ") for t in plain.encode("x = 20261").tokens][-5:] == list("20261")


def test_transformers_and_the_training_network_agree(model: Any) -> None:
    net = network.load(CHECKPOINT).eval()
    ids = torch.tensor([[random.Random(i).randrange(4096) for i in range(200)]])
    with torch.inference_mode():
        torch.testing.assert_close(net(ids), model(ids).logits, atol=2e-3, rtol=2e-3)
        whole, part = net(ids[:, :128]), net(ids[:, :100])
    torch.testing.assert_close(whole[:, :100], part, atol=2e-3, rtol=2e-3)  # blocked attention, and the plain one


def test_the_held_out_loss_stays(plain: Tokenizer) -> None:
    text = HELD_OUT.read_text()
    nats = evaluate.document_nats(network.load(CHECKPOINT).eval(), plain.encode(text).ids)
    assert nats / math.log(2) / len(text.encode()) == pytest.approx(HELD_OUT_BITS, abs=0.02)


CONTINUATIONS = [
    ("from __future__ import", " annotations"),
    ('if __name__ == "__main__', '":'),
    ("import numpy as", " np"),
    ("def f(self, *args, **", "kwargs)"),
    ("    @property\n    def name(self):\n        return self._", "name"),
    ("from typing import TYPE_", "CHECKING"),
    ("class Dog(Animal):\n    def __init__(self, name):\n        super().__", "init__("),
    ("import os\nimport sys\n\npath = os.path.", "join("),
    ("import logging\n\nlogger = logging.getLogger(__", "name__)"),
    ("def greet(user_name):\n    print(user_", "name)"),
    ("from dataclasses import", " dataclass"),
    ("MAX_RETRIES = 3\n\nfor attempt in range(MAX_", "RETRIES):"),
]
"""What the model gets right, from left to right. tests/deployments/test_pico_infilling.py has what it fills in."""


@pytest.mark.parametrize(("prompt", "expected"), CONTINUATIONS)
def test_known_continuations(model: Any, plain: Tokenizer, prompt: str, expected: str) -> None:
    ids = torch.tensor([plain.encode(prompt).ids])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=END)
    assert plain.decode(out[0, ids.shape[1] :].tolist()).startswith(expected)


def test_the_card_is_made_from_the_figures() -> None:
    figures, training, facts = (
        json.loads((CHECKPOINT / f"{name}.json").read_text()) for name in ("evaluation", "training", "corpus")
    )
    assert card.table(figures) in (CHECKPOINT / "README.md").read_text()
    assert card.render(figures, training, facts, "two shared CPU cores") == (CHECKPOINT / "README.md").read_text()
    assert all(licence_allowed(p["licence"]) for p in facts["packages"])


def test_the_network_codes_better_than_the_baselines() -> None:
    figures = json.loads((CHECKPOINT / "evaluation.json").read_text())
    for bits in figures["bits_per_byte"].values():
        assert bits["network"] <= 1.3
        assert bits["network"] < 0.75 * min(bits["ngram"], bits["xz"])


def test_more_bodies_parse_than_the_baselines() -> None:
    bodies = json.loads((CHECKPOINT / "evaluation.json").read_text())["bodies"]
    assert bodies["cases"] >= 300
    assert bodies["network"] > 1.5 * bodies["ngram"]


def test_the_network_fills_whole_lines_better_than_the_baseline() -> None:
    infilling = json.loads((CHECKPOINT / "evaluation.json").read_text())["infilling"]
    assert infilling["cases"] >= 500
    network, ngram = (infilling["cases"] * x for x in (min(infilling["psm"], infilling["spm"]), infilling["ngram"]))
    assert network > 2 * ngram
    assert network - ngram > 2.5 * math.sqrt(network + ngram)  # standard errors of a difference of counts


ALLOWED = """MIT; MIT License; BSD-3-Clause; 3-Clause BSD License; Apache-2.0; Apache Software License; PSF-2.0; 0BSD;
Apache-2.0 OR GPL-2.0-or-later; Apache-2.0 AND BSD-2-Clause; BSD License|MIT License; Apache 2.0;
Python Software Foundation License; (MIT OR Apache-2.0)"""
REFUSED = """; GPL-3.0; GNU General Public License v2 (GPLv2); LGPL-2.1; MPL-2.0; Proprietary; MIT AND GPL-2.0; unknown;
BSD License|GNU Lesser General Public License v3 or later (LGPLv3+); MPL-2.0 AND MIT; CC-BY-NC-4.0; not MIT;
Other/Proprietary License; Limited Apache; ISC License (ISCL); LicenseRef-MIT-derived"""


@pytest.mark.parametrize("statement", [s.strip() for s in ALLOWED.split(";")])
def test_allowed_licences(statement: str) -> None:
    assert licence_allowed(statement)


@pytest.mark.parametrize("statement", [s.strip() for s in REFUSED.split(";")])
def test_refused_licences(statement: str) -> None:
    assert not licence_allowed(statement)


def test_paths_of_tests_and_foreign_code_are_refused() -> None:
    assert path_allowed("flask/app.py")
    assert path_allowed("json/decoder.py")
    for path in ("a/tests/x.py", "a/test_x.py", "pip/_vendor/rich/x.py", "a/x_pb2.py", "a/conftest.py", "a/x.so"):
        assert not path_allowed(path)


def test_texts_that_nobody_wrote_are_refused() -> None:
    assert text_allowed(HELD_OUT.read_text())
    assert not text_allowed("x = 1\n")
    assert not text_allowed("# This file is generated by a tool. Do not edit.\n" + HELD_OUT.read_text())
    assert not text_allowed("table = [\n" + "    0x3f, 0x2e, 117, 1992,\n" * 100 + "]\n")
    assert not text_allowed("a = " + "b + " * 500 + "c\n")


def test_copies_and_near_copies_are_refused() -> None:
    text = HELD_OUT.read_text()
    deduplicator = Deduplicator()
    assert deduplicator.keep(text)
    assert not deduplicator.keep(text)
    assert not deduplicator.keep(text.replace("    ", "\t"))
    assert not deduplicator.keep("import os\n\n" + text.replace("Warehouse", "Depot"))
    assert deduplicator.keep("".join(f"def function_{i}(a):\n    return a + {i}\n" for i in range(50)))


def test_the_split_depends_on_names_alone() -> None:
    splits = [split_of("flask", f"flask/{i}.py") for i in range(5000)]
    assert splits == [split_of("Flask", f"flask/{i}.py") for i in range(5000)]
    assert 0.01 < splits.count("heldout_file") / len(splits) < 0.03
    packages = [split_of(f"package-{i}", "a.py") for i in range(2000)]
    assert 0.02 < packages.count("heldout_package") / len(packages) < 0.06


@given(st.text(alphabet="ab \n\t#é", max_size=200), st.integers())
@settings(deadline=None)
def test_a_cut_joins_again(text: str, seed: int) -> None:
    assert "".join(fim.cut(text, random.Random(seed))) == text


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60), st.booleans())
@settings(deadline=None)
def test_an_arrangement_can_be_taken_apart(prefix: str, middle: str, suffix: str, spm: bool) -> None:
    encoder = _plain()
    parts = [encoder.encode(t).ids for t in (prefix, middle, suffix)]
    ids = fim.arrange((parts[0], parts[1], parts[2]), spm)
    at = {name: ids.index(id) for name, id in (("prefix", 1), ("middle", 2), ("suffix", 3))}
    assert ids[-1] == END
    if spm:
        assert encoder.decode(ids[at["suffix"] + 1 : at["middle"]]) == suffix
        assert ids[at["middle"] + 1 : -1] == [*parts[0], *parts[1]]
    else:
        assert encoder.decode(ids[1 : at["suffix"]]) == prefix
        assert ids[at["middle"] + 1 : -1] == parts[1]
    assert ids[: -1 - len(parts[1])] == fim.prompt(parts[0], parts[2], spm)


@given(st.text(alphabet="abc\n", max_size=3000), st.integers(200, 900), st.integers())
@settings(deadline=None, max_examples=50)
def test_pieces_lose_nothing(text: str, longest: int, seed: int) -> None:
    assert "".join(pieces(text, longest, random.Random(seed))) == text


@pytest.fixture(scope="module")
def small() -> tuple[list[Document], Tokenizer]:
    text = HELD_OUT.read_text()
    documents = [Document("p", f"p/{i}.py", text[i * 97 : i * 97 + 2500], "train") for i in range(20)]
    return documents, train_tokenizer([text], 512)


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


def test_the_better_order_is_noted(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "x"}')
    evaluate.prefer(tmp_path, "spm")
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {"eos_token": "x", "fim_mode": "spm"}
    figures = json.loads((CHECKPOINT / "evaluation.json").read_text())["infilling"]
    preferred = json.loads((CHECKPOINT / "tokenizer_config.json").read_text())["fim_mode"]
    assert preferred == ("spm" if figures["spm"] > figures["psm"] else "psm")


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


def test_the_checkpoint_copies(plain: Tokenizer) -> None:
    """Of a text that comes again, little is news."""
    ids = plain.encode(HELD_OUT.read_text()).ids[:400]
    whole = torch.tensor([[END, *ids, END, *ids]])
    with torch.inference_mode():
        losses = F.cross_entropy(network.load(CHECKPOINT)(whole)[0, :-1], whole[0, 1:], reduction="none")
    assert losses[402:].mean() < 0.7 * losses[: len(ids)].mean()


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


def test_what_counts_as_a_body_that_parses() -> None:
    assert cases.parses("    def f(self):", "\n        return 1\n", False)
    assert cases.parses("def f():", "\n    return 1\n    x = (", False)
    assert cases.parses("    def f(self):", "\n        return 1\n\nclass A(\n", False)
    assert cases.parses("def f():", "\n    return 1", True)
    assert not cases.parses("def f():", "\n    return 1", False)
    assert not cases.parses("def f():", "\n    return (\n    x", False)
    assert not cases.parses("def f():", "\n\n", False)
    # the body ends where the function does
    assert cases.parses("    def f(self):", "\n        return 1\n\n    def g(self):\n        x = (\n", False)
    assert cases.parses('def f():\n    """Text."""', "\n    return 1\nx = (\n", False)
    # what another function's head adds to a docstring is no body
    assert not cases.parses('def f():\n    """Text."""', "\n\ndef g():\n    return 1\n", False)


def test_bodies_begin_behind_the_docstring() -> None:
    text = '''class A:
    def plain(self):
        # a comment
        x = 1
        return x

    def documented(
        self,
    ):
        """Text:
        more.
        """

        x = 2
        return x

    def only_a_docstring(self):
        """Text."""

    def one_line(self):
        return 1
'''
    found = {b.head: b for b in cases.bodies([Document("p", "p.py", text, "heldout_file")], 40)}
    assert [head.split("(")[0].strip() for head in sorted(found, key=len)] == ["def plain", "def documented"]
    plain, documented = (found[head] for head in sorted(found, key=len))
    assert plain.head == "    def plain(self):"
    assert documented.head.endswith('more.\n        """')
    for body in (plain, documented):
        assert body.prompt + body.real == text
        assert body.prompt.endswith(body.head)
        assert cases.parses(body.head, body.real, True)


def test_the_cases_are_drawn_from_the_text() -> None:
    text = HELD_OUT.read_text()
    document = Document("p", "p.py", text, "heldout_file")
    for hole in cases.holes([document], 30):
        assert hole.prefix + hole.line + hole.suffix in text
        assert hole.line.strip()
    for body in cases.bodies([document], 30):
        assert body.prompt + body.real in text
        assert body.prompt.endswith(body.head)
        assert body.head.endswith((":", '"""'))
        assert body.head.lstrip().startswith("def ")


def test_the_corpus_reads_licences_from_metadata(tmp_path: Path) -> None:
    for name, licence in (("good", "MIT"), ("bad", "GPL-3.0-only")):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\nLicense-Expression: {licence}\n"
        )
        (info / "RECORD").write_text(f"{name}/a.py,,\n")
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text(HELD_OUT.read_text())
    found = [package for package, _ in corpus.sources([tmp_path])]
    assert [p.name for p in found] == ["python", "good"]
    assert found[1] == corpus.Package("good", "1.0", "MIT")
