"""The training on a GPU, as far as a CPU can tell: the optimizer, runs, what they write, what is measured."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.pico import CHECKPOINT, evaluate
from model.pico.corpus import Document as Source
from model.pico.gaps import GAPS, right
from model.pico.gpu import card, check, loop, parts, tokens
from model.pico.gpu.loop import Recipe, Run, Uploads, rate_share
from model.pico.gpu.muon import Muon, orthogonal
from model.pico.gpu.pack import held_out as pack_held_out
from model.pico.gpu.pack import pack
from model.pico.network import Network, Shape
from model.pico.prepare import encoded
from model.pico.tokenizer_training import END, train_tokenizer

SHAPE = Shape(vocab_size=512, n_positions=1024, n_embd=32, n_layer=2, n_head=4)
RECIPE = Recipe(steps=12, tokens_per_step=512, length=64, long_length=128)


@pytest.fixture(scope="module")
def data(held_out: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small directory of data."""
    directory = tmp_path_factory.mktemp("data")
    vocabulary = train_tokenizer([held_out], 512)
    sources = [Source("p", f"p/{i:02}.py", held_out[i * 97 : i * 97 + 2500], "train") for i in range(20)]
    tokens.write(pack(sources, list(encoded([s.text for s in sources], vocabulary)), vocabulary), directory)
    kept = [Source("p", "x.py", held_out[:3000], "heldout_file"), Source("q", "y.py", held_out, "heldout_package")]
    pack_held_out(kept, vocabulary, 1000, 5).write(directory)
    vocabulary.save(str(directory / "tokenizer.json"))
    (directory / "corpus.json").write_text("{}")
    return directory


def test_newton_schulz_makes_matrices_orthogonal() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 16, 48), torch.float32))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_muon_over_stacks_is_torchs_muon() -> None:
    torch.manual_seed(0)
    forms = [(32, 32), (128, 32), (32, 128), (32, 32)]
    ours = [torch.nn.Parameter(torch.randn(form)) for form in forms]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    mine = Muon([(p, [len(p)]) for p in ours], weight_decay=0.1)
    other = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    mine.param_groups[0]["lr"] = 0.01
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        mine.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)  # torch's is in bfloat16


def test_muon_takes_a_fused_projection_apart() -> None:
    torch.manual_seed(0)
    whole = torch.nn.Parameter(torch.zeros(48, 32))
    apart = [torch.nn.Parameter(torch.zeros(size, 32)) for size in (32, 8, 8)]
    gradient = torch.randn(48, 32)
    whole.grad = gradient
    for p, part in zip(apart, gradient.split([32, 8, 8]), strict=True):
        p.grad = part
    for optimizer in (Muon([(whole, [32, 8, 8])], 0.1), Muon([(p, [len(p)]) for p in apart], 0.1)):
        optimizer.param_groups[0]["lr"] = 1.0
        optimizer.step()
    torch.testing.assert_close(whole, torch.cat([p.detach() for p in apart]))


def test_rates_rise_stay_and_fall_to_zero() -> None:
    shares = [rate_share(i / 1000, 0.35) for i in range(1001)]
    assert shares[0] < 0.02
    assert shares[20:350] == [1.0] * 330
    assert shares[350:] == sorted(shares[350:], reverse=True)
    assert shares[-1] == 0.0
    assert rate_share(1.2, 0.35) == 0.0


def test_the_clock_starts_with_the_process() -> None:
    assert -1 < time.monotonic() - loop.process_start() <= 60.5


def test_the_loss_counts_each_target_as_often_as_it_says() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 8), torch.randn(16, 8)
    targets = torch.randint(0, 16, (2, 4), dtype=torch.int16)
    counts = torch.tensor([[0, 1, 1, 3], [0, 0, 1, 3]], dtype=torch.uint8)
    losses = -(x @ weight.T).log_softmax(-1).gather(-1, targets.long()[..., None])[..., 0]
    loss, sums = loop.head_loss(x, weight, targets, counts)
    assert float(loss) == pytest.approx(float((losses * counts).sum() / 9), rel=1e-5)
    once, number, middle, middles = sums.tolist()
    assert (number, middles) == (3, 2)
    assert once == pytest.approx(float(losses[counts == 1].sum()), rel=1e-5)
    assert middle == pytest.approx(float(losses[counts == 3].sum()), rel=1e-5)


def test_uploads_keep_what_they_gave() -> None:
    uploads = Uploads(8, torch.device("cpu"), buffers=2)
    found = []
    for value in range(5):
        ids = np.full((2, 4), 40_000 + value, np.uint16) // 2
        found.append(uploads(loop.Batch(ids, ids + 1, np.full((2, 4), value, np.uint8))))
    for value, (inputs, targets, weights) in enumerate(found):
        assert inputs.tolist() == [[(40_000 + value) // 2] * 4] * 2
        assert torch.equal(targets, inputs + 1)
        assert weights.unique().tolist() == [value]


def test_a_run_learns_writes_parts_and_they_join(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "LINE_TOKENS", 3)
    monkeypatch.setattr(check, "GAP_TOKENS", 3)
    loop.train(data, tmp_path / "parts", RECIPE, SHAPE, "cpu", 1, compiled=False)
    facts = json.loads((tmp_path / "parts" / "training.json").read_text())
    assert facts["steps"] == 12
    assert facts["tokens"] == 12 * 512
    assert facts["history"][-1]["loss"] < math.log(512)
    assert 1 < facts["measured"]["bits_per_byte"]["heldout_file"] < 12
    assert facts["measured"]["lines"]["cases"] == 5
    assert len(facts["measured"]["gaps"]["answers"]) == len(GAPS)
    parts.join(tmp_path / "parts", data, tmp_path / "joined")
    model = AutoModelForCausalLM.from_pretrained(str(tmp_path / "joined"), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "joined"))
    assert len(tokenizer) == model.config.vocab_size == 512
    written = parts.read(tmp_path / "parts")["wte.weight"].float()
    torch.testing.assert_close(model.transformer.wte.weight, written)


def test_a_budget_of_time_ends_in_time(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    monkeypatch.setattr(loop, "process_start", lambda: begun)
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.3)
    recipe = Recipe(minutes=2.5 / 60, tokens_per_step=512, length=64, long_length=128)
    loop.train(data, tmp_path, recipe, SHAPE, "cpu", 1, compiled=False)
    facts = json.loads((tmp_path / "training.json").read_text())
    assert facts["steps"] > 3
    assert sum(entry["tokens_per_second"] > 0 for entry in facts["history"]) >= 1
    assert parts.read(tmp_path)


def test_what_was_learned_is_kept_where_a_run_breaks(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Run.train_step

    def break_at_the_third(run: Run, batch: loop.Batch) -> None:
        if run.step == 2:
            raise RuntimeError("broken")
        step(run, batch)

    monkeypatch.setattr(check, "whole", lambda *_arguments: {})
    monkeypatch.setattr(Run, "train_step", break_at_the_third)
    loop.train(data, tmp_path, RECIPE, SHAPE, "cpu", 1, compiled=False)
    assert "RuntimeError: broken" in capsys.readouterr().err
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == 2
    assert parts.read(tmp_path)


def test_a_run_goes_on_where_nothing_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise RuntimeError("no compiler")

    run = Run(RECIPE, SHAPE, torch.device("cpu"), time.monotonic())
    monkeypatch.setattr(torch, "compile", lambda *_args, **_options: fail)
    run.compile()
    assert not run.compiled
    assert run.loss is loop.head_loss
    ids = torch.zeros(8, 64, dtype=torch.int16)
    assert run.forward_backward(ids, ids, torch.ones_like(ids, dtype=torch.uint8))[1] == 8 * 64


def test_the_card_of_a_gpu_run(data: Path, tmp_path: Path) -> None:
    recipe = Recipe(steps=1, tokens_per_step=128, length=64, long_length=128)
    run = Run(recipe, SHAPE, torch.device("cpu"), time.monotonic())
    run.tokens = 160_000_000
    run.write_facts(tmp_path, {})
    training = json.loads((tmp_path / "training.json").read_text())
    facts, figures = (json.loads((CHECKPOINT / f"{name}.json").read_text()) for name in ("corpus", "evaluation"))
    figures["gaps"] = {"right": 1, "of": 2, "answers": [["a\n", "", "b | c\nd", True], ["e", "f", "", False]]}
    text = card.render(figures, training, facts)
    assert "| `a⏎` |  | `b \\| c` | yes |\n| `e` | `f` |  | no |" in text
    assert "2.5 times the training files" in text
    assert f"{figures['bits_per_byte']['heldout_file']['network']:.3f}" in text
    assert "line 34 %, rest 26 %, open 13 %" in text
    assert "{" not in text


def test_parts_of_two_moments_are_refused(tmp_path: Path) -> None:
    found = parts.weights(Network(SHAPE))
    parts.write(found, tmp_path, 7, largest=70_000)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 1
    assert all(file.stat().st_size < 75_000 for file in files)
    assert parts.read(tmp_path).keys() == found.keys()
    files[0].rename(tmp_path / "kept")
    parts.write(found, tmp_path, 8, largest=70_000)
    (tmp_path / "kept").rename(files[0])
    with pytest.raises(ValueError, match="one checkpoint"):
        parts.read(tmp_path)


def test_the_largest_part_of_the_shape_that_is_trained_fits() -> None:
    with torch.device("meta"):
        state = Network(Shape(8192, 2048, 512, 8, 8)).state_dict()
    groups = parts.split({name: tensor.to(torch.bfloat16) for name, tensor in state.items()})
    assert len(groups) <= 5
    assert max(sum(t.nbytes for t in group.values()) for group in groups) <= parts.LARGEST


def test_bits_are_those_of_evaluate(held_out: str) -> None:
    torch.manual_seed(0)
    net = Network(SHAPE).eval()
    vocabulary = train_tokenizer([held_out], 512)
    documents = [vocabulary.encode(held_out[:size]).ids for size in (5000, 30, 500)]
    expected = sum(evaluate.document_nats(net, ids, window=1024) for ids in documents)
    assert check.nats(net, documents, False, batch=4) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(TimeoutError):
        check.nats(net, documents, False, end=time.monotonic() - 1)


def test_greedy_answers_are_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Network(SHAPE).eval()
    parts.export(net, tmp_path)
    net.load_state_dict({name: p.to(torch.bfloat16).float() for name, p in net.state_dict().items()})
    prompts = [[5, 6, 7], [9], [30, 31, 32, 33, 34], [END, 8]]
    expected = evaluate.transformers_greedy(tmp_path, batch=1)(prompts, 6)
    assert check.greedy(net, prompts, 6, False, batch=3) == expected


def test_gaps_know_what_is_right() -> None:
    assert len(GAPS) == 40
    assert len({(gap.prefix, gap.suffix) for gap in GAPS}) == 40
    by_prefix = {gap.prefix: gap for gap in GAPS if not gap.suffix}
    assert right(by_prefix["for i in ran"], "ge(10):\n    print(i)")
    assert not right(by_prefix["for i in ran"], "dom:")
    assert not right(by_prefix["for i in ran"], "")
    assert right(by_prefix["with open(path) as "], "f:")
    assert right(by_prefix["class Dog:\n    def __init__(self"], ", name, age):\n")
    filled = {gap.prefix: gap for gap in GAPS if gap.suffix}
    assert right(filled["for key, value in data."], "items")
    assert not right(filled["for key, value in data."], "items()")
