"""The larger embedded model: complete, small enough to be shipped, and worth what its card says."""

from __future__ import annotations

import json

from tokenizers import Tokenizer

from model.checkpoint.hub import resolve_checkpoint
from model.config import EngineConfig
from model.pico import NANO
from model.pico.gaps import GAPS, right
from model.pico.tokenizer_training import plain_encoder
from model.process.rank import Rank
from model.request import Request, SamplingParams


def test_it_is_complete_and_may_be_shipped() -> None:
    assert resolve_checkpoint("nano") == NANO
    files = {file.name: file.stat().st_size for file in NANO.iterdir()}
    assert files.keys() >= {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "README.md"}
    assert sum(files.values()) <= 64_000_000


def test_everyday_gaps_are_filled_as_its_card_says() -> None:
    tokenizer = Tokenizer.from_file(str(NANO / "tokenizer.json"))
    encoder = plain_encoder(tokenizer)

    def encode(text: str) -> list[int]:
        ids: list[int] = encoder.encode(text, add_special_tokens=False).ids
        return ids

    rank = Rank(EngineConfig(model=str(NANO), device="cpu", num_kv_blocks=400, num_threads=1))
    rank.load()
    engine = rank.engine()
    answers: list[list[int]] = [[] for _ in GAPS]
    for number, gap in enumerate(GAPS):
        params = SamplingParams(max_tokens=16, temperature=0.0)
        engine.add(Request(str(number), gap.prompt(encode, spm=True), params))
    while engine.has_work():
        for output in engine.step():
            answers[int(output.request_id)] += output.token_ids
    filled = sum(right(gap, tokenizer.decode(ids)) for gap, ids in zip(GAPS, answers, strict=True))
    said = json.loads((NANO / "training.json").read_text())["measured"]["gaps"]["right"]
    assert abs(filled - said) <= 2  # near-ties fall otherwise on other hardware
