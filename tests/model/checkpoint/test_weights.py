"""Checkpoints in every form, refused when broken; slices that add up; memory that stays near the shard's size."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import pytest
import torch

from model.checkpoint.files import Checkpoint, parameter_names, stored_shape
from model.checkpoint.hub import resolve_checkpoint
from model.checkpoint.weights import Share, load_weights, random_weights
from model.config import ConfigError, EngineConfig, ModelConfig
from model.network.gpt_bigcode import GPTBigCode
from model.network.layers import Linear
from model.network.parallel import TensorParallel
from model.process.rank import Rank
from tests.support.checkpoints import TINY, random_model, write_checkpoint
from tests.support.ranks import RankGroup

CPU = torch.device("cpu")


def load(directory: Path, rank: int = 0, size: int = 1) -> GPTBigCode:
    model, group = ModelConfig.from_checkpoint(directory), TensorParallel(rank, size)
    network = GPTBigCode.without_storage(model, group)
    load_weights(Share(model, group, CPU, torch.float32), directory, network.place)
    return network


def test_loading_tells_how_far_it_is(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, random_model())
    share = Share(ModelConfig.from_checkpoint(directory), TensorParallel(), CPU, torch.float32)
    told: list[float] = []
    placed: list[str] = []
    load_weights(share, directory, lambda name, _: placed.append(name), told.append)
    count = len(placed) - 1  # the tied head is there already
    assert told == pytest.approx([number / count for number in range(1, count + 1)])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("form", ["one file", "sharded", "pickled", "pickled shards", "no prefix"])
def test_every_form_of_checkpoint(form, tied, tmp_path):
    model = random_model(tie_word_embeddings=tied)
    state = dict(model.state_dict())
    if form == "sharded":
        write_checkpoint(tmp_path, model, max_shard_size="100KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
    else:
        write_checkpoint(tmp_path, model)
    if form.startswith("pickled"):
        (tmp_path / "model.safetensors").unlink()
        names = list(state)
        if form == "pickled":
            torch.save(state, tmp_path / "pytorch_model.bin")
        else:
            shards = {name: f"pytorch_model-{i % 2 + 1:05}-of-00002.bin" for i, name in enumerate(names)}
            for file in set(shards.values()):
                torch.save({n: state[n] for n in names if shards[n] == file}, tmp_path / file)
            (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": shards}))
    if form == "no prefix":
        from safetensors.torch import save_file

        renamed = {n.removeprefix("transformer."): t.clone() for n, t in state.items()}
        if tied:
            renamed.pop("lm_head.weight", None)
        save_file(renamed, tmp_path / "model.safetensors")
    network = load(tmp_path)
    for name, parameter in network.named_parameters():
        stored = name if name.startswith("lm_head") else f"transformer.{name}"
        assert torch.equal(parameter, state[stored]), name
    assert (network.lm_head.weight.data_ptr() == network.wte.weight.data_ptr()) == tied


@pytest.mark.parametrize("multi_query", [True, False])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_the_ranks_slices_make_up_the_whole(size, multi_query, tmp_path):
    directory = write_checkpoint(tmp_path, random_model(multi_query=multi_query))
    whole, ranks = load(directory), [load(directory, r, size) for r in range(size)]
    for name, module in whole.named_modules():
        parts = [r.get_submodule(name) for r in ranks]
        if name.endswith("c_proj"):
            assert torch.equal(torch.cat([p.weight for p in parts], 1), module.weight)
            assert [p.bias is not None for p in parts] == [True] + [False] * (size - 1)
        elif name.endswith("c_fc"):
            assert torch.equal(torch.cat([p.weight for p in parts]), module.weight)
        elif name.endswith("c_attn"):
            heads, kv = TINY["n_head"] // size, 1 if multi_query else TINY["n_head"] // size
            split = [p.weight.split([heads * 8, kv * 8, kv * 8]) for p in parts]
            queries = torch.cat([s[0] for s in split])
            assert torch.equal(queries, module.weight[: len(queries)])
            if multi_query:
                assert all(torch.equal(torch.cat(s[1:]), module.weight[-16:]) for s in split)
            else:
                assert torch.equal(torch.cat([s[1] for s in split]), module.weight[64:128])
        elif name in ("wte", "lm_head"):
            joined = torch.cat([p.weight for p in parts])
            assert torch.equal(joined[: TINY["vocab_size"]], module.weight)
            assert not joined[TINY["vocab_size"] :].any(), "the padding must be zero"


def test_a_rank_never_holds_the_whole_model(tmp_path):
    """Peak memory of each of 4 ranks while loading stays near its shard, far below the model."""
    model = random_model(n_embd=1024, n_head=16, n_inner=4096, n_layer=10, vocab_size=8192, n_positions=64)
    whole = sum(p.numel() * 4 for p in model.parameters())
    assert whole > 400 << 20
    directory = write_checkpoint(tmp_path, model)
    del model
    config = EngineConfig(
        model=str(directory), dtype="float32", device="cpu", tensor_parallel_size=4, num_threads=1, num_kv_blocks=8
    )
    with RankGroup(config) as group:
        for report in group.reports:
            assert report["parameter_bytes"] < whole / 4 * 1.15
            # beside the shard: one mapped tensor at a time (8192 x 1024 floats at most), and PyTorch's own start
            assert report["peak_growth"] < report["parameter_bytes"] + (100 << 20), report
            assert report["parameter_bytes"] < report["peak_growth"] < whole / 2


def edit_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


LFS_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 31036512\n"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: (d / "config.json").unlink(), "no config.json"),
        (lambda d: (d / "config.json").write_text("{"), "not JSON"),
        (lambda d: edit_config(d, model_type="llama"), "model_type='llama'"),
        (lambda d: edit_config(d, n_layer=-1), "n_layer"),
        (lambda d: edit_config(d, n_head=7), "n_embd=64 is not a multiple of n_head=7"),
        (lambda d: edit_config(d, activation_function="swish9"), "activation_function='swish9' is not one of gelu, "),
        (lambda d: edit_config(d, layer_norm_epsilon=-1e-5), "layer_norm_epsilon"),
        (lambda d: edit_config(d, hidden_size=32), "hidden_size=32 and n_embd=64 are one number"),
        (lambda d: edit_config(d, add_cross_attention=True), "add_cross_attention"),
        (lambda d: edit_config(d, quantization_config={"quant_method": "gptq"}), "in the form of gptq"),
        (lambda d: edit_config(d, tie_word_embeddings=False), r"no tensor 'lm_head\.weight'"),
        (lambda d: edit_config(d, multi_query=False), r"c_attn\.weight is \[80, 64\] in the checkpoint"),
        (lambda d: (d / "model.safetensors").unlink(), "holds no weights"),
        (lambda d: (d / "model.safetensors").write_bytes(b"\x10"), "not a safetensors file"),
        (lambda d: cut(d / "model.safetensors"), "cut short"),
        (lambda d: (d / "model.safetensors").write_text(LFS_POINTER), "git lfs pull"),
        (lambda d: (d / "config.json").write_text(LFS_POINTER), "git lfs pull"),
        (lambda d: edit_config(d, n_layer=4), r"no tensor 'transformer\.h\.3"),
        (lambda d: edit_config(d, vocab_size=300), r"wte\.weight is \[211, 64\] in the checkpoint"),
    ],
    ids=lambda value: value.replace("\\", "") if isinstance(value, str) else "",
)
def test_a_broken_checkpoint_is_a_clear_error(damage, says, tmp_path):
    write_checkpoint(tmp_path, random_model())
    damage(tmp_path)
    with pytest.raises(ConfigError, match=says):
        Rank(EngineConfig(model=str(tmp_path), device="cpu")).load()


@pytest.mark.parametrize("damage", [Path.unlink, cut, lambda shard: shard.write_text(LFS_POINTER)])
def test_a_shard_that_is_not_whole_is_named_before_any_is_read(damage, tmp_path):
    write_checkpoint(tmp_path, random_model(), max_shard_size="100KB")
    last = sorted(tmp_path.glob("*.safetensors"))[-1]
    damage(last)
    with pytest.raises(ConfigError, match=last.name):
        load(tmp_path)
    with pytest.raises(ConfigError, match=last.name):
        Checkpoint(tmp_path).check(ModelConfig.from_checkpoint(tmp_path))


@pytest.mark.parametrize("shape", [{}, {"multi_query": False}, {"tie_word_embeddings": False}])
def test_a_checkpoint_is_asked_for_what_the_network_has(shape, tmp_path):
    directory = write_checkpoint(tmp_path, random_model(**shape))
    model = ModelConfig.from_checkpoint(directory)
    network = {
        name: tuple(p.shape) for name, p in GPTBigCode.without_storage(model, TensorParallel()).named_parameters()
    }
    names = parameter_names(model, head=True)
    assert sorted(names) == sorted(network)
    assert {name: stored_shape(name, model) for name in names} == network
    Checkpoint(directory).check(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_compute_no_number_are_refused(value, tmp_path):
    network = random_model()
    network.transformer.h[1].mlp.c_fc.weight.data[0, 0] = value
    write_checkpoint(tmp_path, network)
    with pytest.raises(ConfigError, match="not finite"):
        Rank(EngineConfig(model=str(tmp_path), device="cpu")).load()


def test_sizes_that_do_not_divide_are_refused_with_those_that_do(tmp_path):
    config = ModelConfig.from_checkpoint(write_checkpoint(tmp_path, random_model()))
    with pytest.raises(ConfigError, match=r"n_head=8\. Sizes that do: 1, 2, 4, 8$"):
        config.check_tensor_parallel(3)


@pytest.mark.parametrize("shape", [{}, {"multi_query": False}, {"tie_word_embeddings": False, "n_inner": None}])
def test_parameters_are_counted_as_transformers_counts_them(shape, tmp_path):
    model = random_model(**shape)
    assert ModelConfig.from_checkpoint(write_checkpoint(tmp_path, model)).num_parameters == model.num_parameters()


def test_a_cache_too_small_for_one_sequence_is_refused(tmp_path):
    write_checkpoint(tmp_path, random_model())
    with pytest.raises(ConfigError, match="needs 16"):
        Rank(EngineConfig(model=str(tmp_path), device="cpu", num_kv_blocks=15)).load()
    with pytest.raises(ConfigError, match="window of 256"):
        Rank(EngineConfig(model=str(tmp_path), device="cpu", max_model_len=257)).load()


def test_names_that_are_no_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no such directory"):
        resolve_checkpoint(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="no such directory"):
        resolve_checkpoint("./nothing")
    assert resolve_checkpoint(str(tmp_path)) == tmp_path


def test_the_hub_cache_serves_offline(tmp_path, monkeypatch):
    """A cached repository is found without network; one that is not cached is a clear error."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--bigcode--tiny"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    write_checkpoint(snapshot, random_model())
    found = resolve_checkpoint("bigcode/tiny")
    assert found == snapshot
    assert load(found).config.n_embd == TINY["n_embd"]
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        resolve_checkpoint("bigcode/other")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("random", [True, False])
def test_a_layer_is_handed_over_before_the_next_one_is_read(tied: bool, random: bool, tmp_path: Path) -> None:
    """So that another form takes its place, and the whole model is never there in its plain one."""
    write_checkpoint(tmp_path, random_model(tie_word_embeddings=tied))
    model, group = ModelConfig.from_checkpoint(tmp_path), TensorParallel()
    network = GPTBigCode.without_storage(model, group)
    names = [name for name, module in network.named_modules() if isinstance(module, Linear)]
    plain: list[weakref.ref[torch.Tensor]] = []
    seen: list[torch.Tensor] = []

    class Doubled(torch.nn.Module):
        def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
            super().__init__()
            assert not any(other() is not None for other in plain), "the weight before is still held in its plain form"
            if weight.data_ptr() != network.wte.weight.data_ptr():
                plain.append(weakref.ref(weight))
            self.other, self.bias = weight * 2, bias
            seen.append(self.other)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.other, self.bias)

    def place(name: str, value: torch.Tensor) -> None:
        network.place(name, value, Doubled)

    share = Share(model, group, CPU, torch.float32)
    held = random_weights(share, 0, place) if random else load_weights(share, tmp_path, place)
    assert held == 4 * model.num_parameters
    assert [id(network.get_submodule(name).other) for name in names] == [id(other) for other in seen]
    assert network.wte.weight.numel() == TINY["vocab_size"] * TINY["n_embd"]
    assert network.lm_head(torch.ones(1, TINY["n_embd"])).shape == (1, TINY["vocab_size"])
    assert network.h[1].attn.c_proj.bias.shape == (TINY["n_embd"],)


def test_layers_that_are_replaced_later_are_freed_one_by_one(tmp_path: Path) -> None:
    network = load(write_checkpoint(tmp_path, random_model()))
    plain: list[weakref.ref[Linear]] = [weakref.ref(m) for m in network.modules() if isinstance(m, Linear)]
    left: list[int] = []

    def form(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        left.append(sum(layer() is not None for layer in plain))
        return Linear(weight * 2, bias)

    network.replace_linears(form)
    assert left == list(range(len(plain), 0, -1))
    assert not any(layer() for layer in plain)
