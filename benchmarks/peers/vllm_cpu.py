"""vLLM's CPU backend through its offline `LLM`, as it is by default: engine and worker in processes of their own.

Intel's OpenMP is loaded first where it is installed, as vLLM's documentation advises.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def variables(threads: int, environment: Path) -> dict[str, str]:
    """What it is told by environment variables. environment: the folder of its Python."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    openmp = environment / "lib" / "libiomp5.so"
    return {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        **({"LD_PRELOAD": str(openmp)} if openmp.is_file() else {}),
    }


def load(spec: dict[str, Any]) -> Callable[[list[list[int]], int], list[list[int]]]:
    os.environ.update(variables(spec["threads"], Path(sys.prefix)))
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=spec["checkpoint"],
        dtype=spec["dtype"],
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        max_num_seqs=spec["max_requests"],
        max_model_len=spec["max_len"],
        disable_log_stats=True,
    )

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False)
        outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    return generate
