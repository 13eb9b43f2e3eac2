"""Two ranks on one device beside one rank, with the same weights: whether the sharded network is the same network.

NCCL refuses two ranks on one GPU; they talk through the CPU there (`model.network.parallel`), which is not fast.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.engine.gpu.context import Context
from benchmarks.engine.gpu.reference import write
from benchmarks.engine.gpu.session import Found, Wrong
from benchmarks.engine.in_process import random_prompts
from benchmarks.shapes import write_config
from model.backends import all_reduce
from model.backends.cuda import CudaBackend
from model.config import AllReduce, EngineConfig, ModelConfig
from model.engine import Engine
from model.executor import run_worker
from model.network.gpt_bigcode import GPTBigCode
from model.network.parallel import TensorParallel
from model.process.rank import Rank
from model.request import Request, SamplingParams

TEXTS = 4
LENGTH = 200
TOKENS = 24
PATIENCE = 120.0
"""Seconds for two processes to start, load and read."""
MOST = 0.05
"""Nats by which log-probabilities may differ in the mean. Those of other weights differ by about one."""


def two_ranks(context: Context, stripes: int = 1, way: AllReduce = "nccl") -> Found:
    """Prompts read by both, and the share of the greedy text after them up to the first difference.

    stripes: how many of the two share a cache. way: in which they add up; in our fused kernel on one GPU, too.
    """
    with tempfile.TemporaryDirectory(prefix="starcoder-bench-") as directory:
        write_weights(Path(directory), context.sizes.split_over_ranks)
        config = EngineConfig(
            model=directory,
            dtype="bfloat16" if context.device.type == "cuda" else "float32",
            device="cuda" if context.device.type == "cuda" else "cpu",
            cpu_kernels="torch",
            max_model_len=1024,
            max_num_seqs=TEXTS,
            num_kv_blocks=TEXTS * 64,
            num_threads=1,
        )
        one = Rank(config)
        one.load()
        alone = answers(one.engine())
        del one
        context.clean()
        split = {"tensor_parallel_size": 2, "decode_context_parallel_size": stripes, "all_reduce": way}
        together = _answers_by_two(config.model_copy(update=split))
    differences = [abs(a - b) for a, b in zip(alone["logprobs"], together["logprobs"], strict=True)]
    same = [a == b for a, b in zip(alone["likeliest"], together["likeliest"], strict=True)]
    texts = list(zip(alone["texts"], together["texts"], strict=True))
    metrics = {
        "mean_difference_of_logprobs": sum(differences) / len(differences),
        "largest_difference_of_logprobs": max(differences),
        "same_likeliest_percent": 100 * sum(same) / len(same),
        "same_text_percent": 100 * sum(map(_common, texts)) / (TEXTS * TOKENS),
        "shares_gpu": together["shares_gpu"],
    }
    if way == "fused":
        metrics["fused_rows"] = together["fused_rows"]
    found = Found(metrics)
    if not metrics["mean_difference_of_logprobs"] <= MOST:
        raise Wrong("two ranks are not the same network as one", found)
    return found


def write_weights(directory: Path, shape: str, seed: int = 0) -> Path:
    """A checkpoint of noise that is large enough for every layer to matter; norms scale by 1."""
    write_config(directory, shape)
    network = GPTBigCode.without_storage(ModelConfig.from_checkpoint(directory), TensorParallel())
    noise = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, parameter in network.named_parameters():
        value = torch.randn(parameter.shape, generator=noise).mul_(0.04)
        value += float(".ln_" in name or name.startswith("ln_f")) * float(name.endswith("weight"))
        if not name.startswith("lm_head"):
            tensors[f"transformer.{name}"] = value.bfloat16()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def _common(texts: tuple[list[int], list[int]]) -> int:
    """Tokens before the first difference."""
    same = [a == b for a, b in zip(*texts, strict=True)]
    return same.index(False) if False in same else len(same)


def answers(engine: Engine) -> dict[str, Any]:
    """logprobs, likeliest: of every prompt token but the first, prompt after prompt. texts: what follows, greedy."""
    prompts = random_prompts(engine.model, [LENGTH] * TEXTS, (1,))
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        engine.add(Request(str(number), prompt, params))
    read: dict[str, list[Any]] = {}
    while engine.has_work():
        for output in engine.step():
            if output.prompt_logprobs is not None:
                read[output.request_id] = [entry for entry in output.prompt_logprobs if entry is not None]
    entries = [entry for number in range(TEXTS) for entry in read[str(number)]]
    return {
        "logprobs": [entry.logprob for entry in entries],
        "likeliest": [entry.top[0][0] for entry in entries],
        "texts": write(engine, prompts, TOKENS),
    }


def _answers_by_two(config: EngineConfig) -> dict[str, Any]:
    return by_two(_rank, config)


def by_two(rank: Callable[[Any, int, Connection], None], argument: Any) -> dict[str, Any]:
    """What two processes of `rank` answer, which are ended whatever comes.

    rank: called with the argument, a rank's number, and a pipe: rank 0 sends its address, which rank 1 receives, then
    the answers.
    """
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(2)]
    processes = [
        context.Process(target=rank, args=(argument, number, theirs), daemon=True)
        for number, (_, theirs) in enumerate(pipes)
    ]
    first, second = (ours for ours, _ in pipes)
    try:
        for process, (_, theirs) in zip(processes, pipes, strict=True):
            process.start()
            theirs.close()
        second.send(_received(first))
        return dict(_received(first))
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()


def _received(pipe: Connection) -> Any:
    if not pipe.poll(PATIENCE):
        raise TimeoutError(f"a rank did not answer within {PATIENCE:.0f} s")
    found = pipe.recv()
    if isinstance(found, str) and found.startswith("Traceback"):
        raise RuntimeError(found)
    return found


@contextlib.contextmanager
def told(pipe: Connection) -> Iterator[None]:
    """What goes wrong within it goes through the pipe, too."""
    try:
        yield
    except BaseException:
        pipe.send(traceback.format_exc())
        raise


def _rank(config: EngineConfig, number: int, pipe: Connection) -> None:
    all_reduce.ON_SHARED_GPUS = True
    with told(pipe):
        rank = Rank(config, number)
        if number == 0:
            pipe.send(rank.listen())
        rank.load("" if number == 0 else pipe.recv())
        if number == 0:
            engine = rank.engine()
            ways = {"shares_gpu": rank.group.shares_gpu, "fused_rows": _fused_rows(engine)}
            pipe.send({**answers(engine), **ways})
        else:
            run_worker(rank.engine().executor.runner)


def _fused_rows(engine: Engine) -> int:
    """Of steps that add up in our fused kernel, at most; 0 where none do."""
    backend = engine.executor.runner.backend
    fused = getattr(backend.network.operations, "fused", None) if isinstance(backend, CudaBackend) else None
    return 0 if fused is None else int(fused.most_rows)
