"""Measures the exported checkpoint on the held-out files: ``python -m model.pico.evaluate --work build/pico``.

Writes evaluation.json beside the weights. Compared with `xz -9` on the same bytes, and with a 5-gram model that was
given as many tokens of the training files as the network saw, or what memory holds. Its n-grams have room for the
vocabulary of the embedded checkpoint, so that is what it counts where the network's is larger.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from model.pico import CHECKPOINT, corpus, network
from model.pico.cases import Hole, bodies, holes, parses
from model.pico.corpus import Document
from model.pico.fim import Encode, prompt
from model.pico.gaps import GAPS, right
from model.pico.ngram import LARGEST_VOCABULARY, NGram
from model.pico.tokenizer_training import END, plain_encoder

Generate = Callable[[list[list[int]], int], list[list[int]]]
LINE_TOKENS, BODY_TOKENS = 48, 64


@torch.inference_mode()
def document_nats(model: nn.Module, ids: list[int], window: int = 2048, batch: int = 4) -> float:
    """The summed loss of a document that begins after and ends with ``<|endoftext|>``, in nats.

    Windows overlap by half; a token is scored in the first window that holds it, so it has at least half a window of
    context unless the document itself gives less.
    """
    whole = torch.tensor([END, *ids, END])
    total, scored = 0.0, 1
    for start in range(0, max(1, len(whole) - 1), window // 2):
        part = whole[start : start + window + 1]
        logits: Tensor = model(part[None, :-1])
        losses = F.cross_entropy(logits[0], part[1:], reduction="none")
        total += float(losses[scored - start - 1 :].sum())
        scored = start + len(part)
        if scored == len(whole):
            break
    return total


def sample_documents(documents: list[Document], size: int) -> list[Document]:
    """Documents in random order (fixed seed) until about `size` bytes are reached."""
    order = sorted(documents, key=lambda d: (d.package, d.path))
    random.Random(0).shuffle(order)
    chosen: list[Document] = []
    for document in order:
        if size <= 0:
            break
        chosen.append(document)
        size -= len(document.text.encode())
    return chosen


def bits_per_byte(documents: list[Document], encode: Encode, nats: Callable[[list[int]], float]) -> float:
    """Total information over total bytes; the end of each document is paid for too."""
    total = sum(nats(encode(d.text)) for d in documents)
    return total / math.log(2) / sum(len(d.text.encode()) for d in documents)


def xz_bits_per_byte(documents: list[Document]) -> float:
    """`xz -9` over all documents as one file, which is kinder to it than one by one."""
    data = "".join(d.text for d in documents).encode()
    return 8 * len(lzma.compress(data, preset=9)) / len(data)


def transformers_greedy(directory: Path, batch: int = 32) -> Generate:
    """Greedy generation with transformers, prompts of like length together; the end token is cut off."""
    model: Any = AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32).eval()

    def generate(prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers: list[list[int]] = [[] for _ in prompts]
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            width = max(len(prompts[i]) for i in rows)
            ids = torch.tensor([[END] * (width - len(prompts[i])) + prompts[i] for i in rows])
            mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in rows])
            out = model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, pad_token_id=END)
            for i, row in zip(rows, out[:, width:].tolist(), strict=True):
                answers[i] = row[: row.index(END)] if END in row else row
        return answers

    return generate


def same_line(answer: str, line: str) -> bool:
    """Exact match of the answer's first line, white space at both ends aside: an editor asks for no more than that."""
    return answer.lstrip("\n").split("\n")[0].strip() == line.strip()


def infilling(cases: list[Hole], tokenizer: Tokenizer, encode: Encode, generate: Generate) -> dict[str, float]:
    """The share of masked lines that greedy PSM and SPM give exactly."""
    shares = {}
    for name, spm in (("psm", False), ("spm", True)):
        answers = generate([prompt(encode(c.prefix), encode(c.suffix), spm) for c in cases], LINE_TOKENS)
        right = [same_line(tokenizer.decode(a), c.line) for a, c in zip(answers, cases, strict=True)]
        shares[name] = sum(right) / len(right)
    return shares


def ngram_infilling(cases: list[Hole], tokenizer: Tokenizer, encode: Encode, ngram: NGram) -> float:
    """The 5-gram's share: it sees the prefix only."""
    answers = [tokenizer.decode(ngram.greedy(encode(c.prefix), LINE_TOKENS)) for c in cases]
    return sum(same_line(a, c.line) for a, c in zip(answers, cases, strict=True)) / len(cases)


def everyday_gaps(tokenizer: Tokenizer, encode: Encode, generate: Generate) -> dict[str, Any]:
    """What SPM gives for each of `GAPS`, whether that is right, and how many are."""
    texts = [tokenizer.decode(a) for a in generate([gap.prompt(encode, True) for gap in GAPS], 24)]
    answers = [[gap.prefix, gap.suffix, text, right(gap, text)] for gap, text in zip(GAPS, texts, strict=True)]
    return {"right": sum(bool(answer[3]) for answer in answers), "of": len(GAPS), "answers": answers}


def encoder(tokenizer: Tokenizer) -> Encode:
    """Text to ids; names of special tokens in it stay plain text."""
    plain = plain_encoder(tokenizer)
    return lambda text: list(plain.encode(text, add_special_tokens=False).ids)


def prefer(checkpoint: Path, fim_mode: str) -> None:
    """Notes the order that was filled better where a server looks for it."""
    file = checkpoint / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fim_mode": fim_mode}, indent=2) + "\n")


def seen_ids(documents: list[Document], encode: Encode, tokens: int, seed: int) -> NDArray[np.int64]:
    """As many tokens of the training documents as the network saw, in a random order, each document ended."""
    order = list(documents)
    random.Random(seed).shuffle(order)
    ids: list[int] = []
    for document in order:
        if len(ids) >= tokens:
            break
        ids += [*encode(document.text), END]
    return np.array(ids[:tokens], np.int64)


def main() -> None:
    """Measures everything and writes evaluation.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/pico"))
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--bytes", type=int, default=500_000, help="held-out bytes scored, of files and of packages")
    parser.add_argument("--holes", type=int, default=2000)
    parser.add_argument("--bodies", type=int, default=300)
    parser.add_argument("--ngram-tokens", type=int, default=50_000_000, help="the 5-gram sees so many at most")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    started = time.monotonic()

    def note(text: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {text}", flush=True)

    tokenizer = Tokenizer.from_file(str(options.checkpoint / "tokenizer.json"))
    encode = encoder(tokenizer)
    counted = tokenizer
    if tokenizer.get_vocab_size() > LARGEST_VOCABULARY:
        counted = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    count = encoder(counted)
    training = json.loads((options.checkpoint / "training.json").read_text())
    documents = corpus.load(options.work / "corpus.jsonl")
    train = [d for d in documents if d.split == "train"]
    held = {s: [d for d in documents if d.split == s] for s in ("heldout_file", "heldout_package")}
    seen = min(training["tokens"], options.ngram_tokens)
    ngram = NGram(seen_ids(train, count, seen, 0), counted.get_vocab_size())
    note("5-gram trained")
    net = network.load(options.checkpoint).eval()
    results: dict[str, Any] = {"bits_per_byte": {}}
    for split, found in held.items():
        chosen = sample_documents(found, options.bytes)
        results["bits_per_byte"][split] = {
            "files": len(chosen),
            "bytes": sum(len(d.text.encode()) for d in chosen),
            "tokens": sum(len(encode(d.text)) + 1 for d in chosen),
            "network": bits_per_byte(chosen, encode, lambda ids: document_nats(net, ids, net.shape.n_positions)),
            "xz": xz_bits_per_byte(chosen),
            "ngram": bits_per_byte(chosen, count, lambda ids: ngram.nats(np.array([*ids, END], np.int64))),
        }
        note(f"{split}: {results['bits_per_byte'][split]}")
    both = [*held["heldout_file"], *held["heldout_package"]]
    generate = transformers_greedy(options.checkpoint)
    cases = holes(both, options.holes)
    shares = infilling(cases, tokenizer, encode, generate)
    results["infilling"] = {"cases": len(cases), **shares, "ngram": ngram_infilling(cases, counted, count, ngram)}
    note(f"infilling: {results['infilling']}")
    prefer(options.checkpoint, "spm" if shares["spm"] > shares["psm"] else "psm")
    results["gaps"] = everyday_gaps(tokenizer, encode, generate)
    note(f"gaps: {results['gaps']['right']} of {results['gaps']['of']}")
    functions = bodies(both, options.bodies)
    # what the measure leaves to win, "real": cut like this, not even the files' own code always parses
    made = {
        "network": (tokenizer, generate([encode(f.prompt) for f in functions], BODY_TOKENS)),
        "ngram": (counted, [ngram.greedy(count(f.prompt), BODY_TOKENS) for f in functions]),
        "real": (tokenizer, [encode(f.real)[:BODY_TOKENS] for f in functions]),
    }
    results["bodies"] = {"cases": len(functions)}
    for who, (decoder, answers) in made.items():
        good = [
            parses(f.head, decoder.decode(a), len(a) < BODY_TOKENS) for f, a in zip(functions, answers, strict=True)
        ]
        results["bodies"][who] = sum(good) / len(good)
    note(f"bodies: {results['bodies']}")
    (options.checkpoint / "evaluation.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
