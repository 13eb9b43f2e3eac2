"""transformers beside us: whether both hold the same tokens for the likeliest, and how fast its `generate` is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.engine.gpu.context import Context, Loaded, timed
from benchmarks.engine.gpu.session import Found, Wrong
from benchmarks.report import Row
from benchmarks.shapes import shape_config
from model.backends.cuda import CudaBackend
from model.backends.plain import PlainBackend
from model.engine import Engine
from model.request import Request, SamplingParams

TEXTS = 4
TOKENS = 48
LESS = 10.0
"""Percent of the tokens that we may miss more often than transformers in the same type does: near-ties of noise."""


def agreement(context: Context) -> Found:
    """Greedy texts of ours, read by transformers with the same weights, in our type and in float32.

    How often float32 would have written the same token, for us and for transformers in our type.
    """
    sizes = context.sizes
    loaded = Loaded(sizes.reference, context.device, sizes, "none", TEXTS)
    prompts = loaded.prompts(TEXTS, sizes.before // 2)
    texts = write(loaded.engine(), prompts, TOKENS)
    ours = theirs = tokens = 0
    furthest = 0.0
    low = transformers_model(sizes.reference, context, context.dtype, loaded)
    exact = transformers_model(sizes.reference, context, torch.float32, loaded)
    with torch.inference_mode():
        for prompt, text in zip(prompts, texts, strict=True):
            ids = torch.tensor([[*prompt, *text]], device=context.device)
            logits, rounded = (model(ids).logits[0, len(prompt) - 1 : -1].float() for model in (exact, low))
            written, likeliest = ids[0, len(prompt) :], logits.argmax(-1)
            ours += int((written == likeliest).sum())
            theirs += int((rounded.argmax(-1) == likeliest).sum())
            tokens += len(text)
            furthest = max(furthest, float((logits.amax(-1) - logits.gather(1, written[:, None])[:, 0]).max()))
    backend = loaded.backend
    found = Found(
        {
            "same_as_float32_percent": 100 * ours / tokens,
            "transformers_same_as_float32_percent": 100 * theirs / tokens,
            "largest_difference_of_logits": furthest,
            "tokens": tokens,
            "replays_graphs": isinstance(backend, CudaBackend) and backend.replays,
        }
    )
    if 100 * (theirs - ours) / tokens > LESS:
        raise Wrong("the text is not the one that transformers would write", found)
    return found


def write(engine: Engine, prompts: Sequence[list[int]], count: int) -> list[list[int]]:
    """What follows each prompt, greedy, all of them at once."""
    params = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        engine.add(Request(str(number), prompt, params))
    texts: list[list[int]] = [[] for _ in prompts]
    while engine.has_work():
        for output in engine.step():
            texts[int(output.request_id)] += output.token_ids
    return texts


def transformers_model(shape: str, context: Context, dtype: torch.dtype, loaded: Loaded | None = None) -> Any:
    """Its network of this shape on the device, with our weights where they are given, else with noise of its own."""
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(context.device):
            model = GPTBigCodeForCausalLM(GPTBigCodeConfig.from_dict(shape_config(shape))).eval()
    finally:
        torch.set_default_dtype(default)
    if loaded is not None:
        backend = loaded.backend
        assert isinstance(backend, CudaBackend | PlainBackend)
        held = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in backend.network.named_parameters():
                stored = name if name.startswith("lm_head") else f"transformer.{name}"
                if stored in held:  # a tied head is not
                    held.pop(stored).copy_(value)
        assert not held, f"transformers has parameters that we have not: {', '.join(held)}"
    return model


def generate(context: Context) -> Found:
    """Decode and prefill by transformers' `generate`, as everybody has it. Our own model is freed before."""
    context.release()
    sizes = context.sizes
    model = transformers_model(context.shape, context, context.dtype)

    def seconds(batch: int, before: int, new: int) -> float:
        ids = torch.randint(100, model.config.vocab_size, (batch, before), device=context.device)
        lengths = {"min_new_tokens": new, "max_new_tokens": new}
        options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0, **lengths}
        return timed(context, lambda: model.generate(ids, **options))

    rows: list[Row] = [("decode", "tokens/s", "ms a step")]
    metrics: dict[str, float] = {}
    with torch.inference_mode():
        for batch in (sizes.batches[0], sizes.batches[2]):
            seconds(batch, sizes.before, 4)
            new = sizes.steps // 2
            step = (seconds(batch, sizes.before, new + 1) - seconds(batch, sizes.before, 1)) / new
            metrics[f"batch {batch}, tokens_per_s"] = batch / step
            rows.append((f"batch {batch}", f"{batch / step:.1f}", f"{1000 * step:.1f}"))
        seconds(1, sizes.prompt, 1)
        metrics["prefill_tokens_per_s"] = sizes.prompt / seconds(1, sizes.prompt, 1)
    return Found({**metrics, **context.memory()}, rows)
