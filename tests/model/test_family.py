"""Every configuration of the family runs by the fast path and computes what transformers' GPTBigCode computes."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPTBigCodeForCausalLM

from model.checkpoint.family import known_shape
from model.config import ACTIVATIONS
from model.runner import Runner
from model.statistics import ForwardPath
from tests.support.batches import batch_of
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.native import needs_kernel, runner_of
from tests.support.published import CONCEIVABLE, PUBLISHED, conceivable

TOKENS = 100
OTHER_FORM = {"gelu_erf": "gelu_pytorch_tanh", "gelu_tanh": "gelu"}
"""By the activation, a name of the other GELU."""


def logits_of(model: GPTBigCodeForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(tokens[None]).logits[0].float()


def ours(runner: Runner, seed: int = 0) -> torch.Tensor:
    """Of a prompt of TOKENS tokens."""
    found = runner.run(batch_of([(0, TOKENS)], runner.model.vocab_size, seed))
    assert found is not None
    return found.clone()


def error_of(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@functools.cache
def measured(config: str) -> tuple[ForwardPath, str, dict[str, float]]:
    """What a configuration runs by and as what type, and relative errors. Many published ones scale down to the same.

    ours, theirs: of our fast path, and of transformers in bfloat16, from transformers in float32. plain: of PyTorch's
    operations in float32. leaning: how far our result is on the way from the right GELU to the other form's, 0 to 1.
    """
    shape: dict[str, Any] = json.loads(config)
    model = random_model(seed=1, **shape)
    for block in model.transformer.h:  # where the two forms of GELU differ most, by a percent
        block.mlp.c_fc.bias.data.sub_(2.2)
        block.mlp.c_proj.weight.data.mul_(10)
    with tempfile.TemporaryDirectory() as directory:
        return measure(model, write_checkpoint(Path(directory), model))


def measure(model: GPTBigCodeForCausalLM, checkpoint: Path) -> tuple[ForwardPath, str, dict[str, float]]:
    runner = runner_of(checkpoint, "auto", "auto")
    tokens = torch.from_numpy(batch_of([(0, TOKENS)], model.config.vocab_size, 0).tokens)
    exact, found = logits_of(model, tokens), ours(runner)
    errors = {"ours": error_of(found, exact), "plain": error_of(ours(runner_of(checkpoint, "torch", "float32")), exact)}
    form = ACTIVATIONS[model.config.activation_function]
    if form in OTHER_FORM:
        other = GPTBigCodeForCausalLM.from_pretrained(checkpoint, activation_function=OTHER_FORM[form])
        way = logits_of(other.float().eval(), tokens) - exact
        errors["leaning"] = float(((found - exact) * way).sum() / way.square().sum())
    errors["theirs"] = error_of(logits_of(model.bfloat16(), tokens), exact)
    return runner.report.forward, runner.report.dtype, errors


def check(config: dict[str, Any]) -> None:
    forward, dtype, errors = measured(json.dumps(config))
    assert forward.path == "native"
    assert dtype == "bfloat16"
    assert errors["plain"] < 1e-5
    assert errors["ours"] < 1.1 * errors["theirs"] + 1e-3, errors
    assert errors.get("leaning", 0.0) < 0.4, errors


@needs_kernel
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_checkpoint_takes_the_fast_path(name: str) -> None:
    check(PUBLISHED[name].scaled_down())


@needs_kernel
@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("name", ["bigcode/starcoder", "bigcode/tiny_starcoder_py", "WizardLM/WizardCoder-3B-V1.0"])
def test_it_would_with_the_other_form_as_well(
    name: str, activation: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check({**PUBLISHED[name].scaled_down(), "activation_function": activation})


@needs_kernel
@pytest.mark.parametrize("name", CONCEIVABLE)
def test_whatever_else_a_configuration_says(name: str) -> None:
    check(conceivable(name))


@needs_kernel
@pytest.mark.parametrize("shards", [1, 2])
def test_pickled_weights_take_it_too(shards: int, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, random_model(seed=1, **PUBLISHED["bigcode/octocoder"].scaled_down()))
    expected = ours(runner_of(directory, "auto", "auto"))
    state = dict(GPTBigCodeForCausalLM.from_pretrained(directory).state_dict())
    (directory / "model.safetensors").unlink()
    files = {name: f"pytorch_model-{n % shards + 1:05}-of-{shards:05}.bin" for n, name in enumerate(state)}
    if shards == 1:
        files = dict.fromkeys(state, "pytorch_model.bin")
    else:
        (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    for file in set(files.values()):
        torch.save({name: tensor for name, tensor in state.items() if files[name] == file}, directory / file)
    runner = runner_of(directory, "auto", "auto")
    assert runner.report.forward.path == "native"
    assert torch.equal(ours(runner), expected)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_sizes_by_name_are_those_of_the_table(name: str) -> None:
    if (shape := known_shape(name)) is None:
        return
    table = PUBLISHED[name]
    assert (shape.n_layer, shape.n_embd, shape.n_head, shape.n_positions, shape.vocab_size, shape.n_inner) == (
        *(table.layers, table.width, table.heads, table.positions, table.vocab),
        table.inner,
    )
