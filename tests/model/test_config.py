"""A checkpoint's shape, as transformers reads it, and what no engine can make of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

from model.config import ACTIVATIONS, ConfigError, EngineConfig, ModelConfig, lfs_hint

SHAPE: dict[str, Any] = {"vocab_size": 40, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 6, "n_inner": 36}


def written(directory: Path, **said: Any) -> Path:
    (directory / "config.json").write_text(json.dumps({"model_type": "gpt_bigcode", **SHAPE} | said))
    return directory


def read(directory: Path, **said: Any) -> ModelConfig:
    return ModelConfig.from_checkpoint(written(directory, **said))


@pytest.mark.parametrize(
    "shape",
    [{}, {"multi_query": False}, {"tie_word_embeddings": False}, {"n_inner": 50, "n_layer": 3}, {"n_inner": None}],
    ids=str,
)
def test_a_shape_has_the_parameters_and_the_cache_of_transformers_network(shape: dict[str, Any]) -> None:
    model = ModelConfig.model_validate(SHAPE | shape)
    network = GPTBigCodeForCausalLM(GPTBigCodeConfig(**(SHAPE | shape))).eval()
    assert model.num_parameters == network.num_parameters()
    cache = network(torch.arange(3)[None], use_cache=True).past_key_values
    values = sum(state.numel() for layer in cache.layers for state in (layer.keys, layer.values))
    assert model.kv_bytes_per_token(1) * 3 == values
    assert model.kv_bytes_per_token(2) == 2 * model.kv_bytes_per_token(1)


@pytest.mark.parametrize("multi_query", [True, False])
def test_heads(multi_query: bool) -> None:
    model = ModelConfig(**SHAPE, multi_query=multi_query)
    assert (model.head_dim, model.n_kv_head) == (4, 1 if multi_query else 6)


def test_fields_may_have_transformers_other_names(tmp_path: Path) -> None:
    other = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6, "max_position_embeddings": 32}
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "gpt_bigcode", "vocab_size": 40, "n_inner": 36} | other)
    )
    assert ModelConfig.from_checkpoint(tmp_path) == ModelConfig(**SHAPE)
    assert read(tmp_path, **other) == ModelConfig(**SHAPE), "both, where they agree"
    for name in other:
        with pytest.raises(ConfigError, match=rf"{name}=7 and \w+=\d+ are one number"):
            read(tmp_path, **{name: 7})


def test_a_width_that_is_not_said_is_four_times_the_networks(tmp_path: Path) -> None:
    assert read(tmp_path, n_inner=None).n_inner == 96
    assert read(tmp_path).n_inner == 36
    with pytest.raises(ConfigError, match="n_embd"):
        read(tmp_path, n_inner=None, n_embd="wide")


@pytest.mark.parametrize(
    ("said", "ids"), [(3, (3,)), ([3, 4], (3, 4)), (None, ()), (0, (0,))], ids=["one", "some", "none", "zero"]
)
def test_a_text_ends_with_the_tokens_of_the_configuration(said: object, ids: tuple[int, ...], tmp_path: Path) -> None:
    assert read(tmp_path, eos_token_id=said).eos_token_ids == ids


def test_the_configuration_of_generation_has_the_last_word_on_how_a_text_ends(tmp_path: Path) -> None:
    assert read(tmp_path).eos_token_ids == (0,)
    generation = tmp_path / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": [5, 6], "n_embd": 8, "vocab_size": 2}))
    found = read(tmp_path, eos_token_id=3)
    assert (found.eos_token_ids, found.n_embd, found.vocab_size) == ((5, 6), 24, 40), "on that alone"
    generation.write_text(json.dumps({"eos_token_id": None}))
    assert read(tmp_path, eos_token_id=3).eos_token_ids == (3,)


@pytest.mark.parametrize(
    ("said", "dtype"),
    [
        ({"torch_dtype": "float16"}, "float16"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float16", "dtype": "bfloat16"}, "float16"),
        ({}, None),
    ],
)
def test_the_type_of_the_weights_has_two_names(said: dict[str, str], dtype: str | None, tmp_path: Path) -> None:
    assert read(tmp_path, **said).torch_dtype == dtype


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"n_head": 5}, "n_embd=24 is not a multiple of n_head=5"),
        ({"activation_function": "silu"}, "activation_function='silu' is not one of gelu, "),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"quantization_config": {"quant_method": "gptq"}}, "in the form of gptq;"),
        ({"quantization_config": "awq"}, "in the form of awq;"),
        ({"n_layer": 0}, "n_layer"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"layer_norm_epsilon": -1e-5}, "layer_norm_epsilon"),
        ({"model_type": "llama"}, "model_type='llama'"),
        ({"model_type": None}, "model_type=None"),
    ],
    ids=str,
)
def test_what_is_no_starcoder_is_refused_with_its_file(said: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, **said)
    assert why in str(refused.value)
    assert str(tmp_path / "config.json") in str(refused.value)


def test_what_else_is_said_is_passed_over(tmp_path: Path) -> None:
    said = {"add_cross_attention": False, "quantization_config": None, "attn_pdrop": 0.1}
    assert read(tmp_path, **said) == ModelConfig(**SHAPE)


def test_a_directory_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        ModelConfig.from_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is not JSON: [^.]*$"):
        ModelConfig.from_checkpoint(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not JSON"):
        ModelConfig.from_checkpoint(tmp_path)


def test_a_pointer_of_git_lfs_is_told_from_a_broken_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "git lfs pull" in lfs_hint(file)
    with pytest.raises(ConfigError, match="git lfs pull"):
        ModelConfig.from_checkpoint(tmp_path)
    for other in (" version https://git-lfs", "version https://git-lf", ""):
        file.write_text(other)
        assert lfs_hint(file) == ""


@pytest.mark.parametrize("name", [*ACTIVATIONS])
def test_activations_are_transformers_functions(name: str) -> None:
    """Within what its own ways to write one formula differ by."""
    from transformers.activations import ACT2FN

    formulas = {
        "gelu_erf": torch.nn.functional.gelu,
        "gelu_tanh": lambda values: torch.nn.functional.gelu(values, approximate="tanh"),
        "relu": torch.nn.functional.relu,
    }
    values = torch.linspace(-6, 6, 101)
    ours = formulas[ModelConfig(**SHAPE, activation_function=name).activation](values)
    torch.testing.assert_close(ours, ACT2FN[name](values), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "divides"), [(1, True), (2, True), (3, True), (4, False), (6, True), (12, False)])
def test_ranks_share_heads_and_inner_width_evenly(size: int, divides: bool) -> None:
    """6 heads, 36 wide: 4 divides the width alone."""
    model = ModelConfig(**SHAPE)
    assert model.tensor_parallel_sizes() == [1, 2, 3, 6]
    assert model.tensor_parallel_sizes(2) == [1, 2]
    config = EngineConfig(model="x", tensor_parallel_size=size)
    config.check_ranks()  # nothing is known of the model
    if divides:
        model.check_tensor_parallel(size)
        config.check_ranks(model)
    else:
        for check in (lambda: model.check_tensor_parallel(size), lambda: config.check_ranks(model)):
            with pytest.raises(ConfigError, match=rf"size={size} .*: n_head=6\. Sizes that do: 1, 2, 3, 6$"):
                check()


def test_a_width_that_does_not_divide_is_named() -> None:
    with pytest.raises(ConfigError, match="n_inner=35"):
        ModelConfig(**SHAPE | {"n_inner": 35}).check_tensor_parallel(2)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, None),
        ({"decode_context_parallel_size": 2, "tensor_parallel_size": 2}, None),
        ({"decode_context_parallel_size": 2, "tensor_parallel_size": 6}, None),
        ({"decode_context_parallel_size": 4, "tensor_parallel_size": 6}, "does not divide tensor_parallel_size=6"),
        (
            {"decode_context_parallel_size": 3, "tensor_parallel_size": 3, "block_size": 16},
            "does not divide block_size=16",
        ),
        ({"decode_context_parallel_size": 3, "tensor_parallel_size": 3, "block_size": 24}, None),
    ],
    ids=str,
)
def test_ranks_that_share_the_cache(options: dict[str, int], why: str | None) -> None:
    config = EngineConfig(model="x", **options)  # type: ignore[arg-type]
    if why is None:
        config.check_ranks(ModelConfig(**SHAPE))
    else:
        with pytest.raises(ConfigError, match=why):
            config.check_ranks()
    if config.decode_context_parallel_size > 1 and why is None:
        with pytest.raises(ConfigError, match="this one has 6"):
            config.check_ranks(ModelConfig(**SHAPE, multi_query=False))
        config.check_ranks()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, None),
        ({"quantization": "int8"}, None),
        ({"quantization": "int8", "cpu_kernels": "native"}, None),
        ({"cpu_kernels": "torch"}, None),
        ({"cpu_kernels": "native"}, None),
        ({"attention": "triton"}, None),
        ({"attention": "triton", "quantization": "fp8"}, None),  # where the kernels are interpreted
        ({"attention": "triton", "cpu_kernels": "native"}, "exclude each other"),
        ({"quantization": "fp8"}, "quantization=fp8 needs a GPU"),
        ({"quantization": "int8", "cpu_kernels": "torch"}, "quantization=int8 needs our own kernels"),
    ],
    ids=str,
)
def test_what_no_cpu_runs(options: dict[str, str], why: str | None) -> None:
    config = EngineConfig(model="x", **options)  # type: ignore[arg-type]
    if why is None:
        config.check_cpu()
    else:
        with pytest.raises(ConfigError, match=why):
            config.check_cpu()
