"""Runs one engine in its own Python: `python worker.py MODULE.py < spec.json > result.json`.

Knows nothing of the project, so that a peer's environment needs nothing but the peer. The module has one function:

    load(spec) -> generate      and      generate(prompts, max_tokens) -> tokens of each prompt

An engine that speculates has generate.replay(prompt, output) -> seconds after the first token of writing just that.

spec: checkpoint, scratch (a folder of the peer's own, kept between runs), threads, dtype, max_requests, max_len,
workloads, repeats, seed, packages (whose versions are reported). Everything an engine prints goes to standard error.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

Generate = Callable[[list[list[int]], int], list[list[int]]]


def main() -> None:
    sys.path = [p for p in sys.path if p != os.path.dirname(os.path.abspath(__file__))]
    result_fd = os.dup(1)
    os.dup2(2, 1)
    spec = json.load(sys.stdin)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(spec["threads"])
    result = measure(_module(sys.argv[1]).load, spec)
    sys.stdout.flush()
    with os.fdopen(result_fd, "w") as out:
        json.dump(result, out)
    sys.stderr.flush()
    os._exit(0)  # some engines hang or crash while they are taken down; what they measured is written


def _module(path: str) -> Any:
    found = importlib.util.spec_from_file_location("peer", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def measure(load: Callable[[dict[str, Any]], Generate], spec: dict[str, Any]) -> dict[str, Any]:
    """samples: values by workload; first_tokens: what every prompt's first token was, to compare engines."""
    started = time.perf_counter()
    generate = load(spec)
    load_seconds = time.perf_counter() - started
    samples: dict[str, list[float]] = {}
    first_tokens: dict[str, list[int]] = {}
    for workload in spec["workloads"]:
        name = workload["name"]
        if workload["kind"] == "replay":
            samples[name] = [_replay(generate, workload["texts"]) for _ in range(spec["repeats"] + 1)][1:]
            continue
        _run(generate, workload, prompts(workload, spec, "warm-up"), min(workload["output_len"], 4))
        samples[name], first_tokens[name] = [], []
        for repeat in range(spec["repeats"]):
            value, tokens = _value(generate, workload, spec, str(repeat))
            samples[name].append(value)
            first_tokens[name] += [answer[0] for answer in tokens]
    return {
        "samples": samples,
        "first_tokens": first_tokens,
        "load_seconds": load_seconds,
        "versions": {name: _version(name) for name in spec["packages"]},
    }


def prompts(workload: dict[str, Any], spec: dict[str, Any], part: str) -> list[list[int]]:
    """Random ids, the same for every engine; other parts share no prefix."""
    generator = random.Random(f"{spec['seed']}-{workload['name']}-{part}")
    low, high = spec["token_range"]
    return [[generator.randrange(low, high) for _ in range(workload["input_len"])] for _ in range(workload["requests"])]


def _value(
    generate: Generate, workload: dict[str, Any], spec: dict[str, Any], repeat: str
) -> tuple[float, list[list[int]]]:
    requests, output_len = workload["requests"], workload["output_len"]
    own = prompts(workload, spec, repeat)
    if workload["kind"] == "decode":
        short, _ = _run(generate, workload, prompts(workload, spec, repeat + "-short"), 1)
        whole, tokens = _run(generate, workload, own, output_len + 1)
        return requests * output_len / max(whole - short, 1e-9), tokens
    seconds, tokens = _run(generate, workload, own, output_len)
    return (requests * workload["input_len"] / seconds if workload["kind"] == "prefill" else seconds), tokens


def _replay(generate: Generate, texts: list[dict[str, list[int]]]) -> float:
    """Tokens a second after each text's first token."""
    replay = getattr(generate, "replay", None)
    seconds = 0.0
    for text in texts:
        prompt, output = text["prompt"], text["output"]
        if replay is not None:
            seconds += replay(prompt, output)
            continue
        started = time.perf_counter()
        generate([prompt], 1)
        first = time.perf_counter()
        generate([prompt], len(output))
        seconds += (time.perf_counter() - first) - (first - started)
    return sum(len(text["output"]) - 1 for text in texts) / max(seconds, 1e-9)


def _run(
    generate: Generate, workload: dict[str, Any], asked: list[list[int]], max_tokens: int
) -> tuple[float, list[list[int]]]:
    started = time.perf_counter()
    tokens = generate(asked, max_tokens)
    seconds = time.perf_counter() - started
    lengths = {len(answer) for answer in tokens}
    if len(tokens) != len(asked) or lengths != {max_tokens}:
        raise RuntimeError(f"{workload['name']}: {len(tokens)} answers of {sorted(lengths)} tokens, not {max_tokens}")
    return seconds, tokens


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
