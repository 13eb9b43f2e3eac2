"""OpenVINO GenAI's continuous batching; the checkpoint is exported once by optimum-intel.

Weights are stored in float16 and computed in bfloat16, which is what the CPU plugin does for a bfloat16 model. Where
the CPU does not multiply bfloat16 the plugin refuses to, and computes in float32.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PRECISIONS = {"bfloat16": "bf16", "float32": "f32", "float16": "f16"}


def export(checkpoint: Path, target: Path) -> None:
    """Raises RuntimeError with the exporter's last words."""
    partial = target.with_suffix(".part")
    shutil.rmtree(partial, ignore_errors=True)
    command = [str(Path(sys.executable).parent / "optimum-cli"), "export", "openvino", "--model", str(checkpoint)]
    command += ["--task", "text-generation-with-past", "--weight-format", "fp16", str(partial)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"optimum-cli: {done.stderr.strip().splitlines()[-1:]}")
    partial.rename(target)


def load(spec: dict[str, Any]) -> Callable[[list[list[int]], int], list[list[int]]]:
    import numpy as np
    import openvino
    import openvino_genai

    directory = Path(spec["scratch"]) / "openvino"
    if not directory.is_dir():
        export(Path(spec["checkpoint"]), directory)
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 2
    scheduler.enable_prefix_caching = False
    scheduler.max_num_seqs = spec["max_requests"]
    scheduler.max_num_batched_tokens = 2048
    precision = _PRECISIONS[spec["dtype"]]
    if precision.upper() not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        precision = "f32"
    properties = {"INFERENCE_NUM_THREADS": spec["threads"], "INFERENCE_PRECISION_HINT": precision}
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(directory), scheduler, "CPU", properties)

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = max_tokens
        config.ignore_eos = True
        config.do_sample = False
        tensors = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        results = pipeline.generate(tensors, [config] * len(tensors))
        return [list(result.m_generation_ids[0]) for result in results]

    return generate
