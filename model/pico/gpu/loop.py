"""The training loop for one GPU, from a directory of `pack`, within minutes that count from the process's start.

The schedule is a function of the time that is used, so a run ends in time, with the rates at zero, however fast the
machine is; what it wrote by then is a checkpoint in parts (`parts`), and another one stands there from every 45
seconds on.
"""

from __future__ import annotations

import json
import math
import os
import random
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from model.pico.gpu import check, parts
from model.pico.gpu.feed import Batch, Feed
from model.pico.gpu.muon import Muon
from model.pico.gpu.rows import Mixture
from model.pico.gpu.tokens import HeldOut, read
from model.pico.network import Network, Shape

WARM_UP = 0.02
LATE = 0.6
SAVE_EVERY, REPORT_EVERY = 45.0, 10.0


@dataclass(frozen=True)
class Recipe:
    """What decides a run. `steps` replaces the clock as the budget when it is not 0 (tests).

    The rates rise over the first fiftieth, stay until `flat_share`, and fall on a line to zero. `long_share` of the
    steps have rows of `long_length`, `late_long_share` in the last 40 %: short rows are cheaper.
    """

    minutes: float = 6.5
    steps: int = 0
    tokens_per_step: int = 131_072
    length: int = 1024
    long_length: int = 2048
    long_share: float = 0.2
    late_long_share: float = 0.6
    matrix_rate: float = 4e-3
    other_rate: float = 3e-3
    weight_decay: float = 0.1
    flat_share: float = 0.35
    seed: int = 1234
    mixture: Mixture = field(default_factory=Mixture)


def rate_share(share: float, flat: float) -> float:
    """The share of the peak rates at a share of the budget."""
    if share < WARM_UP:
        return max(share, 1e-4) / WARM_UP
    return min(1.0, max(0.0, 1 - share) / (1 - flat))


def process_start() -> float:
    """When this process started, in the time of `time.monotonic`: imports take seconds, and count."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        up = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.monotonic() - max(0.0, min(up, 60.0))
    except (OSError, ValueError, AttributeError):
        return time.monotonic()


def head_loss(x: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and (4,) sums and numbers of the losses of targets that count once, and of middles.

    x: (B, T, D). weight: (V, D). targets, weights: (B, T). The logits stay in the matrix product's own type in memory.
    """
    logits = F.linear(x, weight).flatten(0, 1).float()
    losses = F.cross_entropy(logits, targets.flatten().long(), reduction="none")
    weights = weights.flatten()
    counts = weights.float()
    once, middle = weights == 1, weights > 1
    sums = [(losses * once).sum(), once.sum(), (losses * middle).sum(), middle.sum()]
    return (losses * counts).sum() / counts.sum(), torch.stack([s.float() for s in sums]).detach()


class Uploads:
    """Copies batches to the device while it computes. At most as many are under way as there are buffers."""

    def __init__(self, tokens: int, device: torch.device, buffers: int = 3) -> None:
        self._device, self._next = device, 0
        pin = device.type == "cuda"
        self._buffers = [
            [torch.empty(tokens, dtype=d, pin_memory=pin) for d in (torch.int16, torch.int16, torch.uint8)]
            for _ in range(buffers)
        ]
        self._events = [torch.cuda.Event() if pin else None for _ in range(buffers)]

    def __call__(self, batch: Batch) -> list[Tensor]:
        """ids, targets and weights on the device, (B, T) each."""
        slot, self._next = self._next, (self._next + 1) % len(self._buffers)
        event, found = self._events[slot], list[Tensor]()
        if event is not None:
            event.synchronize()
        for buffer, array in zip(self._buffers[slot], vars(batch).values(), strict=True):
            # torch knows little of unsigned types, and the vocabulary needs 15 bits at most
            view = torch.from_numpy(array if array.dtype == np.uint8 else array.view(np.int16))
            buffer.copy_(view.flatten())
            found.append(buffer.to(self._device, non_blocking=True, copy=True).view(view.shape))
        if event is not None:
            event.record()
        return found


class Run:
    """One run: network, optimizers, the clock and what is noted."""

    def __init__(self, recipe: Recipe, shape: Shape, device: torch.device, begun: float) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.begun = recipe, device, begun
        self.end = begun + 60 * recipe.minutes
        # evaluation and writing take about 10 s on a GPU
        self.training_end = self.end - min(20.0, 0.1 * 60 * recipe.minutes)
        self.bf16 = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        self.network = Network(shape).to(device)
        self.optimizers = self._optimizers()
        self.uploads = Uploads(recipe.tokens_per_step, device)
        self.loss: Callable[..., tuple[Tensor, Tensor]] = head_loss
        self.rng = random.Random(recipe.seed)
        self.step = self.tokens = 0
        self.started = self.trained = time.monotonic()
        self.sums = torch.zeros(4, device=device)
        self.history: list[dict[str, Any]] = []
        self.compiled = False
        self._saving: threading.Thread | None = None

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        shape, recipe = self.network.shape, self.recipe
        matrices, others = list[Any](), list[Any]()
        for name, parameter in self.network.named_parameters():
            if parameter.dim() < 2 or not name.startswith("h."):
                others.append(parameter)
            elif "c_attn" in name:
                matrices.append((parameter, [shape.n_embd, shape.head_size, shape.head_size]))
            else:
                matrices.append((parameter, [len(parameter)]))
        fused = self.device.type == "cuda"
        adamw = torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=fused)
        return [Muon(matrices, recipe.weight_decay), adamw]

    @property
    def share(self) -> float:
        """The share of the budget that is used."""
        if self.recipe.steps:
            return self.step / self.recipe.steps
        return (time.monotonic() - self.started) / max(1e-6, self.training_end - self.started)

    def length(self) -> int:
        """The row length of a batch to be ordered."""
        recipe = self.recipe
        late = self.share >= LATE
        long = self.rng.random() < (recipe.late_long_share if late else recipe.long_share)
        return recipe.long_length if long else recipe.length

    def forward_backward(self, ids: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Gradients of one batch; returns the sums of `head_loss`."""
        with torch.autocast(self.device.type, torch.bfloat16, self.bf16):
            x = self.network.hidden(ids.long(), None, torch.bfloat16 if self.bf16 else None)
            loss, sums = self.loss(x, self.network.wte.weight, targets, weights)
        loss.backward()
        return sums

    def compile(self) -> None:
        """Compiles one block, which serves all of them, and the head; without a compiler the run goes on as it is."""
        tokens = self.recipe.tokens_per_step
        try:
            torch._dynamo.config.recompile_limit = 32  # were blocks not to share what is compiled, none is left out
            for block in self.network.h:
                block.compile(dynamic=False)
            self.loss = torch.compile(head_loss, dynamic=False)
            for length in (self.recipe.length, self.recipe.long_length):
                ids = torch.zeros(tokens // length, length, dtype=torch.int16, device=self.device)
                float(self.forward_backward(ids, ids, torch.ones_like(ids, dtype=torch.uint8)).sum())
            self.compiled = True
        except Exception as error:  # of the compiler's, which are many
            print(f"not compiled: {type(error).__name__}: {str(error)[:500]}", flush=True)
            for block in self.network.h:
                block._compiled_call_impl = None
            self.loss = head_loss
        for parameter in self.network.parameters():
            parameter.grad = None

    def train_step(self, batch: Batch) -> None:
        """One update."""
        part = rate_share(self.share, self.recipe.flat_share)
        for optimizer, peak in zip(self.optimizers, (self.recipe.matrix_rate, self.recipe.other_rate), strict=True):
            optimizer.param_groups[0]["lr"] = peak * part
        sums = self.forward_backward(*self.uploads(batch))
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.sums += sums
        self.step += 1
        self.trained = time.monotonic()
        self.tokens += batch.ids.size

    def report(self, seconds: float, tokens: int) -> None:
        """Prints and notes the losses since the last report, in nats a token, and the speed."""
        once, number, middle, middles = self.sums.tolist()
        self.sums.zero_()
        now = time.monotonic() - self.begun
        entry = {
            "seconds": round(now, 1),
            "step": self.step,
            "tokens": self.tokens,
            "loss": round(once / max(1, number), 4),
            "middle_loss": round(middle / max(1, middles), 4),
            "tokens_per_second": round(tokens / max(1e-9, seconds)),
        }
        self.history.append(entry)
        print(json.dumps(entry), f"{100 * self.share:.1f} %", flush=True)

    def plain(self) -> Network:
        """A copy that was never compiled: what is measured has many shapes."""
        copy = Network(self.network.shape).to(self.device)
        copy.load_state_dict(self.network.state_dict())
        return copy.eval()

    def save(self, output: Path) -> None:
        """Writes the weights beside the loop."""
        self.join()
        weights = parts.weights(self.network)
        if not math.isfinite(sum(float(w.float().sum()) for w in weights.values())):
            print("the weights are not finite, and are not written", flush=True)
            return
        self._saving = threading.Thread(target=parts.write, args=(weights, output, self.step))
        self._saving.start()

    def join(self) -> None:
        """Waits for the last writing."""
        if self._saving is not None:
            self._saving.join()

    def train(self, feed: Feed, output: Path, held_out: HeldOut) -> None:
        """Trains until the budget is used."""
        while feed.free:
            feed.ask(self.length())
        self.started = reported = saved = time.monotonic()
        tokens = 0
        while self.share < 1:
            with feed.take() as batch:
                self.train_step(batch)
            feed.ask(self.length())
            now = time.monotonic()
            if now - reported >= REPORT_EVERY:
                self.report(now - reported, self.tokens - tokens)
                reported, tokens = time.monotonic(), self.tokens
            if now - saved >= SAVE_EVERY and self.share < 1:
                self.save(output)
                self.write_facts(output, {"bits_per_byte": check.quick(self.plain(), held_out, self.bf16)})
                saved = time.monotonic()
        if self.tokens > tokens:
            self.report(time.monotonic() - reported, self.tokens - tokens)
        self.save(output)

    def write_facts(self, output: Path, measured: dict[str, Any]) -> None:
        """training.json: what the card says about the run, and the history."""
        seconds = self.trained - self.started
        facts = {
            "recipe": asdict(self.recipe),
            "shape": asdict(self.network.shape),
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "steps": self.step,
            "tokens": self.tokens,
            "minutes": round((time.monotonic() - self.begun) / 60, 2),
            "tokens_per_second": round(self.tokens / max(1e-9, seconds)),
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "compiled": self.compiled,
            "measured": measured,
            "history": self.history,
        }
        print(json.dumps(measured), flush=True)
        parts.replace(output / "training.json", (json.dumps(facts, indent=1) + "\n").encode())


def train(data: Path, output: Path, recipe: Recipe, shape: Shape, device: str, workers: int, compiled: bool) -> None:
    """The whole run: reads the data, trains, evaluates and writes."""
    begun = process_start()

    def note(text: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {text}", flush=True)

    output.mkdir(parents=True, exist_ok=True)
    texts, held_out = read(data), HeldOut.read(data)
    workers = workers or max(1, (os.cpu_count() or 2) - 3)
    feed = Feed(texts, data / "tokenizer.json", recipe.tokens_per_step, workers, recipe.seed, recipe.mixture)
    note(f"{len(texts):,} documents, {len(texts.ids):,} tokens, {workers} processes make rows")
    try:
        torch.set_float32_matmul_precision("high")
        run = Run(recipe, shape, torch.device(device), begun)
        note(f"{sum(p.numel() for p in run.network.parameters()):,} parameters on {device}")
        if compiled:
            run.compile()
            note("compiled" if run.compiled else "goes on without compiling")
        try:
            run.train(feed, output, held_out)
        except Exception:  # what was learned by then is worth more than how the run ended
            if not run.step:
                raise
            traceback.print_exc()
            run.save(output)
    finally:
        feed.close()
    note("trained")
    tokenizer = Tokenizer.from_file(str(data / "tokenizer.json"))
    run.write_facts(output, check.whole(run.plain(), held_out, tokenizer, run.bf16, run.end))
    run.join()
    note("done")
