"""Writes the model card from the figures beside the weights: ``python -m model.pico.card``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from model.pico import CHECKPOINT

TEMPLATE = """---
license: apache-2.0
language: code
library_name: transformers
pipeline_tag: text-generation
tags: [code, fill-in-the-middle, gpt_bigcode]
---

# StarCoder pico

A {parameters:.1f} M parameter member of the StarCoder family, trained on a CPU from permissively licensed Python so
that StarCoder Serve runs a trained model out of the box. Same architecture (`GPTBigCodeForCausalLM`:
multi-query attention, learned positions), same special tokens under the same ids, same fill-in-the-middle formats, a
window of {window:,} tokens.

## What it is for, and what not

For trying the service, for its tests, and for measuring the overhead of everything around the model. **Not for real
work**: it has learned some surface forms of Python, invents names, repeats itself, and does not follow a program's
meaning. Use `bigcode/starcoderbase-1b` or larger for that. It is not tuned to instructions, and knows no language but
Python and no text but what stands in Python files.

## Figures

Measured by `python -m model.pico.evaluate` on files that were never trained on; the 5-gram model (interpolated
Kneser-Ney) was given as many tokens, drawn from the same training files; `xz -9` had the same bytes as one file.

{table}

{verdict}

{notes}

Held-out files come from packages whose other files were trained on; held-out packages ({held_out}) were
not seen at all. Infilling masks one random line behind its indentation ({infill_cases} cases; context: up to 1,200
characters before and 500 after; the answer's first line counts, white space at both ends does not; the 5-gram sees the
prefix only). Bodies: greedy, 64 tokens behind the signature and the docstring (if there is one) of {body_cases}
functions, ended where the function ends, cut at the last complete line. Cut like this, {body_real} of the files' own
bodies parse: the others stop within a bracket, or behind a line that opens a block. A share that parses says that the
syntax is right, not the program. One model, one run, one draw of cases; the standard error of a body share is about
{body_error:.0f} points.

## Network and training

| | |
| --- | --- |
| layers, width, heads | {n_layer}, {n_embd}, {n_head} (one key/value head of {head_size}) |
| vocabulary | {vocab_size:,} (byte-level BPE, digits one by one, trained on the training files) |
| weights | bfloat16, input and output embedding shared |
| tokens seen | {tokens:.1f} M ({epochs}) |
| start | {start} |
| rows | {length} tokens; {long_length:,} in {long_percent:.0f} % of the steps, late {late_percent:.0f} % |
| optimizer | {optimizer}; warm-up 2 %, cosine to zero |
| phases | {phases} |
| time | {minutes:.0f} minutes on {hardware}, {tokens_per_second:,} tokens a second |

In the last phase {fim_percent:.0f} % of the tokens are cut for infilling at character level, in pieces of 50 to
1,700 characters, {psm_percent:.0f} % as PSM and the others as SPMv2; the holes are one line or the rest of one
(70 %), any two points (10 %), up to 12 characters (10 %) or 1 to 4 lines (10 %), and a middle's tokens count
{middle_weight:g} times. Earlier phases cut half of the tokens, half as PSM, with fewer holes of one line (50
%). 15 % of the documents carry their file name, half of these the package's name too. Half of the short rows
start at a random position, so that all {window:,} positions are trained.

To train it again:

```
pip install --no-deps --target build/corpus -r model/pico/corpus.txt
python -m model.pico.prepare --packages build/corpus
python -m model.pico.train {budget}{flags}
python -m model.pico.evaluate --checkpoint build/pico/checkpoint
python -m model.pico.card --checkpoint build/pico/checkpoint
```

The budget is time, so a faster or idler machine sees more tokens; the same figures are not to be expected to the last
digit.

## Data

{train_files:,} files ({train_mb:.0f} MB, {train_tokens}) for training; {file_files} files, and {package_files} files of
{held_out_count} whole packages, held out by hash of their names before training. Taken: `.py` files of the standard
library and of packages whose metadata states MIT, BSD, Apache or PSF and nothing else (of an OR, one). Left out:
tests, vendored and generated files, data tables, long lines, exact copies, and files of which more than half of the
three-line shingles had been seen before. At most {cap:.0f} MB of a package, chosen by hash. The model may repeat what
it read; a repeated passage of substance is under its package's licence.

| package | version | licence | files | kB | tokens |
| --- | --- | --- | ---: | ---: | ---: |
{packages}

## Licence

Weights and code: Apache-2.0, as the project. The packages above are their authors', under the licences stated.
"""

STARTS = {
    "random": "random weights",
    "induction": "sinusoidal positions and a copying circuit written into the first two layers "
    "(`model/pico/start.py`), the rest random; nothing frozen",
}


def phases(training: dict[str, Any]) -> str:
    """Every recipe of the run with the tokens it was used for."""
    parts, before = [], 0
    for phase in training["phases"]:
        recipe, tokens = phase["recipe"], phase["until_tokens"] - before
        before = phase["until_tokens"]
        parts.append(
            f"{tokens / 1e6:.1f} M tokens in steps of {recipe['tokens_per_step']:,}, peak rate "
            f"{recipe['learning_rate']:g}, weight decay {recipe['weight_decay']:g}, middles counted "
            f"{recipe.get('middle_weight', 1):g} times, for a budget of "
            + (f"{recipe['steps']:,} steps" if recipe["steps"] else f"{recipe['minutes']:g} minutes")
        )
    return "; then ".join(parts)


def percent(share: float) -> str:
    """One decimal."""
    return f"{100 * share:.1f} %"


def flags(recipe: dict[str, Any]) -> str:
    """The options of the run's last phase."""
    return (
        f" --compile --optimizer {recipe['optimizer']} --tokens-per-step {recipe['tokens_per_step']}"
        f" --learning-rate {recipe['learning_rate']:g} --start {recipe['start']}"
        f" --fim-share {recipe.get('fim_share', 0.5):g} --psm-share {recipe.get('psm_share', 0.5):g}"
        f" --middle-weight {recipe.get('middle_weight', 1):g}" + (" --find-suffix" if recipe.get("find_suffix") else "")
    )


def table(figures: dict[str, Any]) -> str:
    """The evaluation as a Markdown table."""
    lines = ["| | this model | 5-gram | xz -9 |", "| --- | ---: | ---: | ---: |"]
    names = {"heldout_file": "held-out files", "heldout_package": "held-out packages"}
    for split, name in names.items():
        bits = figures["bits_per_byte"][split]
        label = f"bits per byte, {name} ({bits['files']} files, {bits['bytes']:,} bytes), lower is better"
        lines.append(f"| {label} | {bits['network']:.3f} | {bits['ngram']:.3f} | {bits['xz']:.3f} |")
    infill, body = figures["infilling"], figures["bodies"]
    lines.append(f"| one masked line, exact, PSM | {percent(infill['psm'])} | {percent(infill['ngram'])} | |")
    lines.append(f"| one masked line, exact, SPM | {percent(infill['spm'])} | {percent(infill['ngram'])} | |")
    lines.append(f"| function bodies that parse | {percent(body['network'])} | {percent(body['ngram'])} | |")
    return "\n".join(lines)


def verdict(figures: dict[str, Any]) -> str:
    """In words, where the target was missed and where a baseline is as good or better."""
    missed = []
    for split, name in (("heldout_file", "held-out files"), ("heldout_package", "held-out packages")):
        bits = figures["bits_per_byte"][split]
        if bits["network"] > 1.3:
            missed.append(f"bits per byte on {name} miss the target of 1.3")
        missed += [f"{who} codes {name} as well or better" for who in ("xz", "ngram") if bits[who] <= bits["network"]]
    infill, body = figures["infilling"], figures["bodies"]
    if min(infill["psm"], infill["spm"]) <= infill["ngram"]:
        missed.append("infilling is no better than the 5-gram's")
    if body["network"] <= body["ngram"]:
        missed.append("no more bodies parse than the 5-gram's")
    text = "; ".join(missed).replace("ngram", "the 5-gram")
    return f"**A weak model**: {text}." if missed else "It reaches the target of 1.3 and beats both baselines."


def package_rows(corpus: dict[str, Any]) -> str:
    """What was taken of each package, as rows of a table."""
    return "\n".join(
        f"| {p['name']}{' (held out)' if p['held_out'] else ''} | {p['version']} | {p['licence'].replace('|', ', ')} | "
        f"{p['files']} | {p['bytes'] // 1000} | {p['tokens']:,} |"
        for p in corpus["packages"]
    )


def render(figures: dict[str, Any], training: dict[str, Any], corpus: dict[str, Any], hardware: str) -> str:
    """The card. Every number in it is read from the three JSON files."""
    recipe, shape, splits = training["recipe"], training["shape"], corpus["splits"]
    held = [p["name"] for p in corpus["packages"] if p["held_out"]]
    muon = recipe["optimizer"] == "muon"
    epochs = training["epochs"]
    return TEMPLATE.format(
        parameters=training["parameters"] / 1e6,
        window=shape["n_positions"],
        table=table(figures),
        held_out=", ".join(held),
        held_out_count=len(held),
        infill_cases=figures["infilling"]["cases"],
        body_cases=figures["bodies"]["cases"],
        body_real=percent(figures["bodies"]["real"]),
        body_error=50 / figures["bodies"]["cases"] ** 0.5,
        verdict=verdict(figures),
        notes=training.get("notes", ""),
        head_size=shape["n_embd"] // shape["n_head"],
        tokens=training["tokens"] / 1e6,
        epochs="less than one pass over the data" if epochs == 1 else f"in pass {epochs} over the data",
        phases=phases(training),
        length=recipe["length"],
        long_length=recipe["long_length"],
        start=STARTS[recipe["start"]],
        middle_weight=recipe["middle_weight"],
        fim_percent=100 * recipe.get("fim_share", 0.5),
        psm_percent=100 * recipe.get("psm_share", 0.5),
        long_percent=100 * recipe["long_share"],
        late_percent=100 * recipe["late_long_share"],
        optimizer="Muon for the matrices of the blocks, AdamW (0.9, 0.95) for the rest"
        if muon
        else "AdamW (0.9, 0.95)",
        minutes=training["minutes"],
        hardware=hardware,
        tokens_per_second=training["tokens_per_second"],
        budget=f"--steps {recipe['steps']}" if recipe["steps"] else f"--minutes {recipe['minutes']:g}",
        flags=flags(recipe),
        train_files=splits["train"]["files"],
        train_mb=splits["train"]["bytes"] / 1e6,
        train_tokens=f"{splits['train']['tokens'] / 1e6:.1f} M tokens",
        file_files=splits["heldout_file"]["files"],
        package_files=splits["heldout_package"]["files"],
        cap=corpus["cap"] / 1e6,
        packages=package_rows(corpus),
        **{k: shape[k] for k in ("n_layer", "n_embd", "n_head", "vocab_size")},
    )


def main() -> None:
    """Writes README.md beside the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--hardware", default="two shared CPU cores")
    options = parser.parse_args()
    figures, training, corpus = (
        json.loads((options.checkpoint / f"{name}.json").read_text()) for name in ("evaluation", "training", "corpus")
    )
    (options.checkpoint / "README.md").write_text(render(figures, training, corpus, options.hardware))


if __name__ == "__main__":
    main()
