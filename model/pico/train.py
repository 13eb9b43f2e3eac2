"""Trains the embedded model within a budget of minutes: ``python -m model.pico.train --minutes 80``.

The schedule is a function of the share of the budget that is used, so a run ends on time however busy the machine
is, with the learning rate at zero. A run that was stopped goes on from its last checkpoint when started again.

With ``--data DIRECTORY`` a larger one is trained on a GPU in minutes (`model.pico.gpu`).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.pico import corpus
from model.pico.data import Stream
from model.pico.network import Network, Shape, export, load
from model.pico.start import induction, point_at_suffix
from model.pico.tokenizer_training import save_tokenizer

WARM_UP = 0.02
LATE = 0.6


@dataclass(frozen=True)
class Recipe:
    """What decides a run. `steps` replaces the clock as the budget when it is not 0 (tests).

    The steps are small because a CPU sees few tokens: at 8,192 tokens a step the loss stood still for want of steps.
    Short rows are cheaper, so long ones come late: `long_share` of the steps, `late_long_share` in the last 40 %.
    A middle is a small part of what it is cut from, so its tokens and its end count `middle_weight` times.
    `fim_share` of the tokens are cut for infilling, and `psm_share` of the cuts are laid out as PSM. `find_suffix`
    writes the heads of `start.point_at_suffix` into the weights before the first step.
    """

    minutes: float = 90.0
    steps: int = 0
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    tokens_per_step: int = 4096
    length: int = 512
    long_length: int = 2048
    long_share: float = 0.05
    late_long_share: float = 0.5
    middle_weight: float = 6.0
    optimizer: str = "muon"
    fim_share: float = 0.5
    psm_share: float = 0.5
    start: str = "induction"
    find_suffix: bool = False
    seed: int = 1234


def learning_rate(share: float, peak: float) -> float:
    """Linear warm-up over the first 2 % of the budget, then a cosine to zero. `share` is in 0 to 1."""
    if share < WARM_UP:
        return peak * max(share, 1e-4) / WARM_UP
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - WARM_UP) / (1 - WARM_UP))))


def optimizers(network: Network, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW, with decay on the blocks' matrices alone. With "muon" those go to Muon instead (Jordan 2024)."""
    matrices = [p for n, p in network.named_parameters() if p.dim() == 2 and n.startswith("h.")]
    others = [p for n, p in network.named_parameters() if p.dim() < 2 or not n.startswith("h.")]
    adamw: list[dict[str, Any]] = [{"params": others, "weight_decay": 0.0}]
    found: list[torch.optim.Optimizer] = []
    if recipe.optimizer == "muon":
        muon = torch.optim.Muon(matrices, lr=1.0, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw")
        found.append(muon)
    else:
        adamw.append({"params": matrices, "weight_decay": recipe.weight_decay})
    found.append(torch.optim.AdamW(adamw, lr=1.0, betas=(0.9, 0.95)))
    return found


class Run:
    """One training run: network, optimizers, data and the part of the budget that is used."""

    def __init__(self, recipe: Recipe, shape: Shape, stream: Stream, compiled: bool = False) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.stream = recipe, stream
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # without the instructions a CPU is several times slower in bfloat16 than in float32
        self.bf16 = self.device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        self.network = Network(shape)
        if recipe.start == "induction":
            induction(self.network)
        self.network.to(self.device)
        self.optimizers = optimizers(self.network, recipe)
        self.rng = random.Random(recipe.seed)
        self.step = self.tokens = 0
        self.seconds = 0.0
        self.earlier_minutes = 0.0
        """Of the runs whose weights this one started from."""
        self.history: list[dict[str, Any]] = []
        self.forward: Any = torch.compile(self.network, dynamic=False) if compiled else self.network

    @property
    def share(self) -> float:
        """The share of the budget that is used."""
        if self.recipe.steps:
            return self.step / self.recipe.steps
        return self.seconds / (60 * self.recipe.minutes)

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs, targets, middles and positions. Half the short batches start at a random position, so that all are
        learned.
        """
        recipe = self.recipe
        long_share = recipe.late_long_share if self.share >= LATE else recipe.long_share
        length = recipe.long_length if self.rng.random() < long_share else recipe.length
        ids, targets, middle = self.stream.batch(recipe.tokens_per_step // length, length)
        last = self.network.shape.n_positions - length
        offset = self.rng.randint(0, last) if self.rng.random() < 0.5 else 0
        positions = torch.arange(offset, offset + length, device=self.device)
        return ids.to(self.device), targets.to(self.device), middle.to(self.device), positions

    def warm_up(self) -> None:
        """Compiles both row lengths before the clock starts; nothing is learned and no data is used."""
        for length in (self.recipe.length, self.recipe.long_length):
            ids = torch.zeros(self.recipe.tokens_per_step // length, length, dtype=torch.long, device=self.device)
            with torch.autocast(self.device.type, torch.bfloat16, self.bf16):
                loss = self.forward(ids, torch.arange(length, device=self.device), ids).mean()
            loss.backward()
        self.network.zero_grad(set_to_none=True)

    def train_step(self) -> float:
        """One update; returns the loss in nats a token, all tokens alike."""
        started = time.monotonic()
        rate = learning_rate(self.share, self.recipe.learning_rate)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        ids, targets, middle, positions = self.batch()
        with torch.autocast(self.device.type, torch.bfloat16, self.bf16):
            losses = self.forward(ids, positions, targets)
        weights = 1.0 + (self.recipe.middle_weight - 1.0) * middle
        ((losses * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        value = float(losses.detach().mean())
        self.step += 1
        self.tokens += ids.numel()
        self.seconds += time.monotonic() - started
        return value

    def save(self, file: Path) -> None:
        """Writes everything that a resumed run needs, atomically."""
        state = {
            "network": self.network.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "stream": self.stream.state(),
            "rng": self.rng.getstate(),
            "history": self.phases(),
            "counts": (self.step, self.tokens, self.seconds),
            "earlier_minutes": self.earlier_minutes,
            "shape": asdict(self.network.shape),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)

    def continue_from(self, directory: Path) -> None:
        """Starts from an exported checkpoint's weights, with a schedule, optimizers and data of its own.

        Raises RuntimeError where its shape is another one.
        """
        self.network.load_state_dict(load(directory).state_dict())
        trained = json.loads((directory / "training.json").read_text())
        self.history = trained["phases"]
        self.tokens = trained["tokens"]
        self.earlier_minutes = trained["minutes"]

    def resume(self, file: Path) -> None:
        """Goes on from what `save` wrote."""
        state = torch.load(file, map_location=self.device, weights_only=False)
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.stream.restore(state["stream"])
        self.rng.setstate(state["rng"])
        self.step, self.tokens, self.seconds = state["counts"]
        self.history = state.get("history", [])
        self.earlier_minutes = state.get("earlier_minutes", 0.0)

    def phases(self) -> list[dict[str, Any]]:
        """The recipes of the run and where each ended; more than one where a resumed run was given another."""
        now = {"until_step": self.step, "until_tokens": self.tokens, "recipe": asdict(self.recipe)}
        return [*(p for p in self.history if p["recipe"] != now["recipe"]), now]

    def facts(self) -> dict[str, object]:
        """What the card says about the run."""
        minutes = self.earlier_minutes + self.seconds / 60
        return {
            "recipe": asdict(self.recipe),
            "phases": self.phases(),
            "shape": asdict(self.network.shape),
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "steps": self.step,
            "tokens": self.tokens,
            "minutes": round(minutes, 1),
            "tokens_per_second": round(self.tokens / max(1e-9, 60 * minutes)),
            "epochs": self.stream.epoch + 1,
            "device": self.device.type,
        }

    def run(self, checkpoint: Path, save_every: float = 240.0, report_every: float = 15.0) -> None:
        """Trains until the budget is used. Saves every `save_every` seconds, and when the user interrupts."""
        reported = saved = time.monotonic()
        tokens, losses = self.tokens, list[float]()
        try:
            while self.share < 1:
                losses.append(self.train_step())
                now = time.monotonic()
                if now - reported >= report_every or self.share >= 1:
                    speed = (self.tokens - tokens) / max(1e-9, now - reported)
                    print(
                        f"step {self.step}  loss {sum(losses) / len(losses):.3f}  {speed:,.0f} tok/s  "
                        f"{self.tokens / 1e6:.2f} M tokens  {100 * self.share:.1f} % of the budget",
                        flush=True,
                    )
                    reported, tokens, losses = now, self.tokens, []
                if now - saved >= save_every:
                    self.save(checkpoint)
                    saved = now
        finally:
            self.save(checkpoint)


def main() -> None:
    """Trains, then writes the checkpoint that transformers loads, and training.json beside it."""
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--data")
    if early.parse_known_args()[0].data:
        from model.pico.gpu.command import main as train_on_a_gpu

        train_on_a_gpu()
        return
    defaults = Recipe()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="what model.pico.gpu.pack wrote: trains on a GPU (its options: --data . --help)")
    parser.add_argument("--work", type=Path, default=Path("build/pico"), help="where model.pico.prepare wrote")
    parser.add_argument("--out", type=Path, default=None, help="the exported checkpoint (default: WORK/checkpoint)")
    parser.add_argument("--minutes", type=float, default=defaults.minutes)
    parser.add_argument("--steps", type=int, default=0, help="a budget in steps instead of minutes")
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default=defaults.optimizer)
    parser.add_argument(
        "--continue-from",
        type=Path,
        default=None,
        help="an exported checkpoint whose weights and tokenizer a new run starts from, instead of --start",
    )
    parser.add_argument("--start", choices=["random", "induction"], default=defaults.start)
    parser.add_argument("--tokens-per-step", type=int, default=defaults.tokens_per_step)
    parser.add_argument("--long-share", type=float, default=defaults.long_share)
    parser.add_argument("--late-long-share", type=float, default=defaults.late_long_share)
    parser.add_argument("--middle-weight", type=float, default=defaults.middle_weight)
    parser.add_argument("--fim-share", type=float, default=defaults.fim_share)
    parser.add_argument("--psm-share", type=float, default=defaults.psm_share)
    parser.add_argument(
        "--find-suffix", action="store_true", help="write heads that look from <fim_middle> to the suffix"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--layers", type=int, default=Shape.n_layer)
    parser.add_argument("--width", type=int, default=Shape.n_embd)
    parser.add_argument("--heads", type=int, default=Shape.n_head)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="fuse with torch.compile (needs a C++ compiler on CPU)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = Recipe(**{k: v for k, v in vars(options).items() if k in Recipe.__dataclass_fields__})
    tokenizer = Tokenizer.from_file(str((options.continue_from or options.work) / "tokenizer.json"))
    shape = Shape(tokenizer.get_vocab_size(), n_embd=options.width, n_layer=options.layers, n_head=options.heads)
    documents = corpus.load(options.work / "corpus.jsonl", "train")
    stream = Stream(documents, tokenizer, recipe.seed, recipe.fim_share, recipe.psm_share)
    run = Run(recipe, shape, stream, options.compile)
    if options.continue_from is not None:
        run.continue_from(options.continue_from)
    checkpoint = options.work / "run.pt"
    if checkpoint.exists():
        run.resume(checkpoint)
    elif recipe.find_suffix:
        point_at_suffix(run.network, stream.batch(32, 1024)[0])
    facts = run.facts()
    print(f"{facts['parameters']:,} parameters on {run.device}, step {run.step}", flush=True)
    if options.compile:
        run.warm_up()
    run.run(checkpoint)
    out = options.out or options.work / "checkpoint"
    export(run.network, out)
    save_tokenizer(tokenizer, out, shape.n_positions)
    (out / "training.json").write_text(json.dumps(run.facts(), indent=1) + "\n")
    shutil.copyfile(options.work / "corpus.json", out / "corpus.json")


if __name__ == "__main__":
    main()
