"""Hugging Face transformers: `generate` with a static batch; all prompts are equally long, so nothing is padded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def load(spec: dict[str, Any]) -> Callable[[list[list[int]], int], list[list[int]]]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(spec["threads"])
    model = AutoModelForCausalLM.from_pretrained(spec["checkpoint"], dtype=getattr(torch, spec["dtype"])).eval()
    model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        ids = torch.tensor(prompts)
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False, pad_token_id=0
        )
        return [[int(token) for token in row] for row in out[:, ids.shape[1] :]]

    return generate
