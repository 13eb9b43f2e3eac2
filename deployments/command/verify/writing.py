"""The engine's side: what it writes in each case, and what it held for likely at each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from deployments.command.verify.cases import Case, Facts, Material, Prompt, Proof, build
from deployments.command.verify.child import Say
from deployments.command.verify.readings import CaseRun, Drafts, EngineAnswer, Written
from model.engine import Engine
from model.process.client import merge
from model.process.rank import Rank
from model.request import Output, Request, SamplingParams, TokenLogprobs
from monitoring import metrics

TOP = 64
"""Of the vocabulary, the likeliest tokens at each position that the engine is asked for."""


def answer(rank: Rank, material: Material, say: Say) -> EngineAnswer:
    """Run every case on loaded ranks. Raises RuntimeError where the engine refuses a prompt or memory runs out."""
    engine = rank.engine()
    facts = Facts(engine.max_model_len, engine.limits.tokens, engine.pool.block_size, engine.limits.sequences)
    runs = []
    for case in build(material, rank.config, facts):
        if case.why_not is None:
            say(f"engine: {case.name}, {len(case.prompts)} prompts")
        runs.append(run(rank, case))
    reports = [msgspec.to_builtins(report) for report in rank.reports]
    gpus = [torch.cuda.get_device_name(r.device) for r in rank.reports if r.device.startswith("cuda")]
    return EngineAnswer(runs, facts, reports, gpus)


def run(rank: Rank, case: Case) -> CaseRun:
    """One case, on an engine of its own."""
    if case.why_not is not None:
        return CaseRun(case)
    engine = rank.engine(**case.engine)
    written: list[Written] = []
    batches = [case.prompts] if case.at_once else [(prompt,) for prompt in case.prompts]
    try:
        for _ in range(case.rounds):
            for batch in batches:
                written += _write(engine, batch, case)
        engine.check_integrity()
    except AssertionError as error:
        return CaseRun(case, tuple(written), broken=str(error) or "its accounts do not add up")
    missing = tuple(p.missing for p in case.proofs if _counted(engine, p) <= 0)
    return CaseRun(case, tuple(written), missing, drafts=_drafts(engine))


def _drafts(engine: Engine) -> Drafts:
    checked, right, by_model, by_model_right = (
        int(engine.counters[counter])
        for counter in (
            metrics.DRAFT_TOKENS,
            metrics.ACCEPTED_DRAFT_TOKENS,
            metrics.MODEL_DRAFT_TOKENS,
            metrics.ACCEPTED_MODEL_DRAFT_TOKENS,
        )
    )
    return Drafts(checked - by_model, right - by_model_right, by_model, by_model_right)


def _counted(engine: Engine, proof: Proof) -> float:
    beyond = 0.0 if proof.beyond is None else engine.counters[proof.beyond]
    return engine.counters[proof.counter] - beyond


def _write(engine: Engine, prompts: Sequence[Prompt], case: Case) -> list[Written]:
    for number, prompt in enumerate(prompts):
        most = min(case.new_tokens, engine.max_model_len - len(prompt.ids))
        params = SamplingParams(
            max_tokens=most,
            temperature=0.0,
            ignore_eos=True,
            logprobs=TOP,
            prompt_logprobs=TOP if case.whole else None,
        )
        engine.add(Request(str(number), list(prompt.ids), params))
    outputs: list[list[Output]] = [[] for _ in prompts]
    while engine.has_work():
        for output in engine.step():
            outputs[int(output.request_id)].append(output)
    return [_written(prompt, merge(found)) for prompt, found in zip(prompts, outputs, strict=True)]


def _written(prompt: Prompt, output: Output) -> Written:
    if output.failure == "out_of_memory":
        raise RuntimeError("the engine ran out of memory")
    if output.finish_reason == "abort" and output.failure is None:
        raise RuntimeError(f"the engine refused a prompt of {len(prompt.ids)} tokens")
    entries = [e for e in output.prompt_logprobs or [] if e is not None] + (output.logprobs or [])
    first = len(prompt.ids) + len(output.token_ids) - len(entries)
    own, ids, logprobs = _arrays(entries)
    return Written(prompt, tuple(output.token_ids), first, own, ids, logprobs, output.cached_tokens, output.failure)


def _arrays(entries: Sequence[TokenLogprobs]) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    own = np.array([entry.logprob for entry in entries], dtype=np.float32)
    ids = np.array([[id for id, _ in entry.top] for entry in entries], dtype=np.int32)
    logprobs = np.array([[value for _, value in entry.top] for entry in entries], dtype=np.float32)
    return own, ids.reshape(len(entries), -1), logprobs.reshape(len(entries), -1)
