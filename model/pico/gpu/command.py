"""The options of a run on a GPU: ``python -m model.pico.train --data DIRECTORY --device cuda --minutes 6.5``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenizers import Tokenizer

from model.pico.gpu.loop import Recipe, train
from model.pico.gpu.rows import Mixture
from model.pico.network import Shape


def main() -> None:
    """Trains."""
    recipe, mixture = Recipe(), Mixture()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="what model.pico.gpu.pack wrote")
    parser.add_argument("--output", type=Path, default=Path("build/pico_parts"), help="where the parts are written")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=recipe.minutes, help="from the process's start to its end")
    parser.add_argument("--steps", type=int, default=0, help="a budget in steps instead of minutes")
    parser.add_argument("--tokens-per-step", type=int, default=recipe.tokens_per_step)
    parser.add_argument("--length", type=int, default=recipe.length)
    parser.add_argument("--long-length", type=int, default=recipe.long_length)
    parser.add_argument("--long-share", type=float, default=recipe.long_share)
    parser.add_argument("--late-long-share", type=float, default=recipe.late_long_share)
    parser.add_argument("--matrix-rate", type=float, default=recipe.matrix_rate)
    parser.add_argument("--other-rate", type=float, default=recipe.other_rate)
    parser.add_argument("--weight-decay", type=float, default=recipe.weight_decay)
    parser.add_argument("--flat-share", type=float, default=recipe.flat_share)
    parser.add_argument("--seed", type=int, default=recipe.seed)
    parser.add_argument("--plain-share", type=float, default=mixture.plain_share)
    parser.add_argument("--psm-share", type=float, default=mixture.psm_share)
    parser.add_argument("--middle-weight", type=int, default=mixture.middle_weight)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0, help="processes that make rows (default: by the cores)")
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    given = vars(options)
    mixture = Mixture(**{k: v for k, v in given.items() if k in Mixture.__dataclass_fields__})
    recipe = Recipe(**{k: v for k, v in given.items() if k in Recipe.__dataclass_fields__}, mixture=mixture)
    vocabulary = Tokenizer.from_file(str(options.data / "tokenizer.json")).get_vocab_size()
    shape = Shape(vocabulary, recipe.long_length, options.width, options.layers, options.heads)
    train(options.data, options.output, recipe, shape, options.device, options.workers, not options.no_compile)
