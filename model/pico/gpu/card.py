"""Writes the model card of what was trained on a GPU: ``python -m model.pico.gpu.card --checkpoint DIRECTORY``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from model.pico.card import package_rows, percent, table, verdict

TEMPLATE = """---
license: apache-2.0
language: code
library_name: transformers
pipeline_tag: text-generation
tags: [code, fill-in-the-middle, gpt_bigcode]
---

# {name}

A {parameters:.1f} M parameter member of the StarCoder family, trained in {minutes:.1f} minutes on one GPU from
permissively licensed Python. Same architecture (`GPTBigCodeForCausalLM`: multi-query attention, learned positions),
same special tokens under the same ids, same fill-in-the-middle formats, a window of {window:,} tokens.

## What it is for, and what not

For trying the service, and for completing small things in an editor: ends of lines, names, idioms. **Not for real
work**: it is a hundredth of the size of the smallest useful models, invents names, and does not follow a program's
meaning. Use `bigcode/starcoderbase-1b` or larger for that. It is not tuned to instructions, and knows no language but
Python and no text but what stands in Python files.

## Figures

Measured by `python -m model.pico.evaluate` on files that were never trained on; the 5-gram model (interpolated
Kneser-Ney, of the 4,096 tokens of the smallest model's vocabulary) was given a part of the same training files; `xz -9`
had the same bytes as one file.

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

Of the {gaps_of} everyday gaps of `model/pico/gaps.py`, {gaps_right} are filled as a programmer expects by transformers
alone, without a server's rules (SPM, greedy):

| before the cursor | behind it | answer | as expected |
| --- | --- | --- | --- |
{gaps}

## Network and training

| | |
| --- | --- |
| layers, width, heads | {n_layer}, {n_embd}, {n_head} (one key/value head of {head_size}) |
| vocabulary | {vocab_size:,} (byte-level BPE, digits one by one, trained on the training files) |
| weights | bfloat16, input and output embedding shared |
| tokens seen | {tokens:.0f} M in {steps:,} steps of {tokens_per_step:,}: {passes:.1f} times the training files |
| rows | {length:,} tokens; {long_length:,} in {long_percent:.0f} % of the steps, late {late_percent:.0f} % |
| optimizer | Muon for the matrices of the blocks (peak rate {matrix_rate:g}, weight decay {weight_decay:g}), AdamW \
(0.9, 0.95; {other_rate:g}) for the rest |
| schedule | warm-up 2 %, flat until {flat_percent:.0f} % of the time, on a line to zero |
| time | {minutes:.1f} minutes from start to last figure on one {device}, {tokens_per_second:,} tokens a second |

{plain_percent:.0f} % of the rows are whole documents; the others are pieces of {shortest} bytes to a row's length, cut
for infilling at character level, {psm_percent:.0f} % as PSM and the others as SPMv2. The holes: {holes}. Kinds:
*line* is one line behind its indentation, *rest* the end of one, *open* the same or some lines more with nothing
behind the cursor, *within* up to 16 bytes, *lines* 2 to 12, *block* what stands as deep, *any* between two points. A
middle's tokens count {middle_weight} times, and what only clients write (`<fim_suffix>` and its like) is never to be
predicted. {header_percent:.0f} % of the documents carry their file name, half of these the package's name too.

To train it again:

```
pip install --no-deps --target build/corpus -r model/pico/corpus_large.txt
python -m model.pico.prepare --packages build/corpus --work build/pico_large --vocab-size {vocab_size} --cap {cap}
python -m model.pico.gpu.pack --work build/pico_large --out build/pico_data
python -m model.pico.train --data build/pico_data --device cuda --minutes {budget:g} --output build/pico_parts
python -m model.pico.gpu.parts --parts build/pico_parts --data build/pico_data --out build/pico_large/checkpoint
python -m model.pico.evaluate --work build/pico_large --checkpoint build/pico_large/checkpoint
python -m model.pico.gpu.card --checkpoint build/pico_large/checkpoint
```

The budget is time, so a faster GPU sees more tokens; the same figures are not to be expected to the last digit.

## Data

{train_files:,} files ({train_mb:.0f} MB, {train_tokens:.1f} M tokens) for training; {file_files} files, and \
{package_files} files of
{held_out_count} whole packages, held out by hash of their names before training. Taken: `.py` files of the standard
library and of packages whose metadata states MIT, BSD, Apache or PSF and nothing else (of an OR, one). Left out:
tests, vendored and generated files, data tables, long lines, exact copies, and files of which more than half of the
three-line shingles had been seen before. At most {cap_mb:.1f} MB of a package, chosen by hash. The model may repeat
what it read; a repeated passage of substance is under its package's licence.

| package | version | licence | files | kB | tokens |
| --- | --- | --- | ---: | ---: | ---: |
{packages}

## Licence

Weights and code: Apache-2.0, as the project. The packages above are their authors', under the licences stated.
"""


def code(text: str) -> str:
    """Text in a table's cell: its last or first lines are told by where it is cut, so all of it stands there."""
    shown = text.replace("\n", "⏎").replace("|", "\\|").replace("`", "'")
    return f"`{shown}`" if shown else ""


def gap_rows(gaps: dict[str, Any]) -> str:
    """Each gap with its answer's first line."""
    return "\n".join(
        f"| {code(prefix)} | {code(suffix)} | {code(answer.split(chr(10))[0])} | {'yes' if good else 'no'} |"
        for prefix, suffix, answer, good in gaps["answers"]
    )


def render(
    figures: dict[str, Any], training: dict[str, Any], corpus: dict[str, Any], name: str = "StarCoder nano"
) -> str:
    """The card. Every number in it is read from the three JSON files."""
    recipe, shape, splits = training["recipe"], training["shape"], corpus["splits"]
    mixture = recipe["mixture"]
    held = [p["name"] for p in corpus["packages"] if p["held_out"]]
    return TEMPLATE.format(
        name=name,
        parameters=training["parameters"] / 1e6,
        window=shape["n_positions"],
        table=table(figures),
        verdict=verdict(figures),
        notes=training.get("notes", ""),
        held_out=", ".join(held),
        held_out_count=len(held),
        infill_cases=figures["infilling"]["cases"],
        body_cases=figures["bodies"]["cases"],
        body_real=percent(figures["bodies"]["real"]),
        body_error=50 / figures["bodies"]["cases"] ** 0.5,
        gaps_of=figures["gaps"]["of"],
        gaps_right=figures["gaps"]["right"],
        gaps=gap_rows(figures["gaps"]),
        head_size=shape["n_embd"] // shape["n_head"],
        tokens=training["tokens"] / 1e6,
        steps=training["steps"],
        passes=training["tokens"] / splits["train"]["tokens"],
        long_percent=100 * recipe["long_share"],
        late_percent=100 * recipe["late_long_share"],
        flat_percent=100 * recipe["flat_share"],
        plain_percent=100 * mixture["plain_share"],
        psm_percent=100 * mixture["psm_share"],
        header_percent=100 * mixture["header_share"],
        holes=", ".join(f"{kind} {100 * share:.0f} %" for kind, share in mixture["kinds"].items()),
        minutes=training["minutes"],
        budget=recipe["minutes"],
        device=training["device"],
        tokens_per_second=training["tokens_per_second"],
        train_files=splits["train"]["files"],
        train_mb=splits["train"]["bytes"] / 1e6,
        train_tokens=splits["train"]["tokens"] / 1e6,
        file_files=splits["heldout_file"]["files"],
        package_files=splits["heldout_package"]["files"],
        cap=corpus["cap"],
        cap_mb=corpus["cap"] / 1e6,
        packages=package_rows(corpus),
        **{k: recipe[k] for k in ("tokens_per_step", "length", "long_length", "matrix_rate", "other_rate")},
        **{k: mixture[k] for k in ("shortest", "middle_weight")},
        **{k: shape[k] for k in ("n_layer", "n_embd", "n_head", "vocab_size")},
        weight_decay=recipe["weight_decay"],
    )


def main() -> None:
    """Writes README.md beside the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    options = parser.parse_args()
    figures, training, corpus = (
        json.loads((options.checkpoint / f"{name}.json").read_text()) for name in ("evaluation", "training", "corpus")
    )
    (options.checkpoint / "README.md").write_text(render(figures, training, corpus))


if __name__ == "__main__":
    main()
