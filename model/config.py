"""The shape of the network, read from a Hugging Face `config.json`, and how the engine runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DType = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda"]
CpuKernels = Literal["auto", "native", "torch"]
Quantization = Literal["none", "int8", "fp8"]
AttentionBackend = Literal["auto", "torch", "triton"]
AllReduce = Literal["nccl", "fused"]
Activation = Literal["gelu_tanh", "gelu_erf", "relu"]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "relu": "relu",
}
"""What stands between a layer's two products, by the names of transformers, which has several for one formula."""


NO_DRAFT_MODEL = "draft_revision is given, and no draft_model that it is of"


class ConfigError(ValueError):
    """A model or engine configuration that cannot work; the message says why and what would."""


def lfs_hint(path: Path) -> str:
    """What to do about a file in whose place Git LFS has left a pointer; nothing of any other file."""
    mark = b"version https://git-lfs"
    with path.open("rb") as file:
        found = file.read(len(mark)) == mark
    return ". It is a pointer of Git LFS: `git lfs pull` fetches the file" if found else ""


ELSEWHERE = "cannot be had on another rank, whose log says why"
"""What a rank says that has no obstacle itself, where all ranks have to do without something."""


_OTHER_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
"""What transformers' GPTBigCodeConfig takes for a field as well."""


class ModelConfig(BaseModel):
    """GPTBigCode's shape. Field names are those of `config.json`.

    `attention_softmax_in_fp32` and `scale_attention_softmax_in_fp32` are not among them: they say how transformers
    rounds on its way to a softmax, which we form in float32 whatever they say. An engine knows nothing of dropout.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    vocab_size: int = Field(gt=0)
    n_positions: int = Field(gt=0)
    n_embd: int = Field(gt=0)
    n_layer: int = Field(gt=0)
    n_head: int = Field(gt=0)
    n_inner: int = Field(gt=0)
    multi_query: bool = True
    activation_function: str = "gelu_pytorch_tanh"
    layer_norm_epsilon: float = Field(default=1e-5, ge=0, allow_inf_nan=False)
    scale_attn_weights: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 0
    eos_token_ids: tuple[int, ...] = (0,)
    torch_dtype: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_hugging_face(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for other, name in _OTHER_NAMES.items():
            if other in data and data.setdefault(name, data[other]) != data[other]:
                raise ValueError(f"{other}={data[other]} and {name}={data[name]} are one number, and differ")
        if data.get("add_cross_attention"):
            raise ValueError("add_cross_attention: this is the decoder of a pair, whose encoder nobody runs here")
        if quantization := data.get("quantization_config"):
            method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
            raise ValueError(
                f"quantization_config: its weights are in the form of {method}; plain ones are read here, and rounded "
                "by the option quantization"
            )
        if data.get("n_inner") is None and isinstance(data.get("n_embd"), int):
            data["n_inner"] = 4 * data["n_embd"]
        if "eos_token_id" in data:
            eos = data.pop("eos_token_id")
            data["eos_token_ids"] = () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,)
        # transformers 5 writes `dtype` where earlier releases wrote `torch_dtype`
        data["torch_dtype"] = data.get("torch_dtype") or data.get("dtype")
        return data

    @model_validator(mode="after")
    def _makes_sense(self) -> ModelConfig:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd={self.n_embd} is not a multiple of n_head={self.n_head}")
        if self.activation_function not in ACTIVATIONS:
            raise ValueError(f"activation_function={self.activation_function!r} is not one of {', '.join(ACTIVATIONS)}")
        return self

    @property
    def activation(self) -> Activation:
        return ACTIVATIONS[self.activation_function]

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def n_kv_head(self) -> int:
        return 1 if self.multi_query else self.n_head

    @classmethod
    def from_checkpoint(cls, directory: Path) -> ModelConfig:
        """Read `directory/config.json`.

        Raises ConfigError where it is missing, broken, or another architecture's.
        """
        path = directory / "config.json"
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError:
            raise ConfigError(f"{directory} holds no config.json: not a checkpoint directory") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not JSON: {error}{lfs_hint(path)}") from error
        if data.get("model_type") != "gpt_bigcode":
            raise ConfigError(
                f"{path} describes model_type={data.get('model_type')!r}; StarCoder Serve runs 'gpt_bigcode' "
                "(santacoder in its gpt_bigcode form, tiny_starcoder_py, starcoderbase-*, starcoder, starcoderplus)"
            )
        generation = directory / "generation_config.json"
        if generation.is_file():
            data.update(
                {k: v for k, v in json.loads(generation.read_text()).items() if k == "eos_token_id" and v is not None}
            )
        try:
            return cls.model_validate(data)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model; a tied head counts once."""
        width, inner = self.n_embd, self.n_inner
        qkv = width + 2 * self.n_kv_head * self.head_dim
        attention = (width + 1) * qkv + (width + 1) * width
        mlp = (width + 1) * inner + (inner + 1) * width
        embeddings = (self.vocab_size * (1 if self.tie_word_embeddings else 2) + self.n_positions) * width
        return self.n_layer * (attention + mlp + 4 * width) + 2 * width + embeddings

    def check_tensor_parallel(self, size: int) -> None:
        """Raise ConfigError unless heads, MLP and vocabulary can be split over `size` ranks.

        The vocabulary is padded to a multiple of the size, so only heads and MLP width matter.
        """
        for name, value in (("n_head", self.n_head), ("n_inner", self.n_inner)):
            if value % size:
                raise ConfigError(
                    f"tensor_parallel_size={size} does not divide this model: {name}={value}. "
                    f"Sizes that do: {', '.join(str(s) for s in self.tensor_parallel_sizes())}"
                )

    def tensor_parallel_sizes(self, limit: int = 16) -> list[int]:
        return [s for s in range(1, limit + 1) if self.n_head % s == 0 and self.n_inner % s == 0]

    def kv_bytes_per_token(self, bytes_per_value: int) -> int:
        """Bytes of key and value that one token holds in all layers on one rank of a multi-query model."""
        return 2 * self.n_layer * self.n_kv_head * self.head_dim * bytes_per_value


class EngineConfig(BaseModel):
    """How one engine runs one model. Everything a rank needs to start, picklable, nothing from the environment.

    model: checkpoint directory or hub id.
    decode_context_parallel_size: how many ranks share one cache of a multi-query model instead of a copy each: of so
        many tokens in a row each keeps one. Divides tensor_parallel_size and block_size.
    max_model_len: longest prompt plus completion in tokens; None: the model's window.
    num_kv_blocks: cache size in blocks; None: what `kv_cache_memory` bytes (CPU) or
        `gpu_memory_utilization` of the GPU hold after the weights.
    max_num_batched_tokens: tokens in one step, prefill chunks and decodes together; None: by device.
    target_inter_token_latency_s: how long a step may take in which somebody decodes: prompts get the tokens that fit,
        by what steps have taken; 0: all that `max_num_batched_tokens` leaves; None: by device, 50 ms on a GPU alone.
    speculative_tokens: longest draft, by prompt lookup or by the draft model; 0: no speculation; None: 8. Where
        many decode at once none are made (`limits.DRAFTED_ROWS`).
    draft_model: a small model of the same vocabulary that drafts where prompt lookup finds nothing: checkpoint
        directory or hub id; None: lookup alone. Rank 0 holds all of it. draft_revision: of a hub id. dtype,
        quantization, kernels and load_format are meant for both models.
    load_format: "random" fills the weights with seeded noise (benchmarks; only config.json is read).
    seed: requests without one draw theirs from it, and random weights are made of it; None: from the operating system's
        entropy, so that no two engines or starts draw the same, and random weights of 0, since ranks share them.
    num_threads: threads a rank uses on CPU; None: the cores divided by the ranks.
    cpu_kernels: "native": our forward pass in C, an error where it cannot run; "torch": PyTorch's operations;
        "auto": the first where it can run, else the second.
    attention: on a GPU "torch": scaled_dot_product_attention over gathered blocks; "triton": our paged kernels
        (multi-query models, heads of 16, 32, 64 or 128 values; in float32 32 at most), an error where a check at the
        start does not find them right; "auto": the second where it does, else the first.
        Tokens are drawn by our kernel, too, unless this is "torch".
    cuda_graphs: record steps of up to 512 tokens on a GPU and replay them; only with our paged kernels.
    all_reduce: how ranks on GPUs add up what each has of a layer. "nccl": by a collective. "fused", in steps of few
        rows, with our paged kernels: in the kernel that norms the sum, through each other's memory, where a check at
        the start finds it right; else, and in all other steps, as with "nccl".
    async_scheduling: prepare a step while the one before runs; None: on GPUs.
    quantization: on a CPU "int8": weights and what they are multiplied with in 8 bits (our kernels only). On a GPU
        "int8" or "fp8": the linear layers' weights in 8 bits (Triton kernels; fp8 from compute capability 8.9).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str
    revision: str | None = None
    dtype: DType = "auto"
    device: Device = "auto"
    tensor_parallel_size: int = Field(default=1, ge=1)
    decode_context_parallel_size: int = Field(default=1, ge=1)
    max_model_len: int | None = Field(default=None, ge=2)
    max_num_seqs: int = Field(default=64, ge=1)
    max_num_batched_tokens: int | None = Field(default=None, ge=16)
    target_inter_token_latency_s: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    block_size: int = Field(default=16, ge=1)
    num_kv_blocks: int | None = Field(default=None, ge=2)
    kv_cache_memory: int = Field(default=512 << 20, gt=0)
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    enable_prefix_caching: bool = True
    speculative_tokens: int | None = Field(default=None, ge=0, le=64)
    draft_model: str | None = Field(default=None, min_length=1)
    draft_revision: str | None = None
    load_format: Literal["auto", "random"] = "auto"
    num_threads: int | None = Field(default=None, ge=1)
    cpu_kernels: CpuKernels = "auto"
    attention: AttentionBackend = "auto"
    cuda_graphs: bool = True
    all_reduce: AllReduce = "nccl"
    async_scheduling: bool | None = None
    quantization: Quantization = "none"
    seed: int | None = None

    def check_ranks(self, model: ModelConfig | None = None) -> None:
        """Raise ConfigError where ranks cannot share the cache as is asked for, or the model, where it is known."""
        if model is not None:
            model.check_tensor_parallel(self.tensor_parallel_size)
        stripes = self.decode_context_parallel_size
        asked = f"decode_context_parallel_size={stripes}"
        if stripes == 1:
            return
        if self.tensor_parallel_size % stripes:
            raise ConfigError(f"{asked} does not divide tensor_parallel_size={self.tensor_parallel_size}")
        if self.block_size % stripes:
            raise ConfigError(
                f"{asked} does not divide block_size={self.block_size}: every rank keeps as many tokens of a block"
            )
        if model is not None and not model.multi_query:
            raise ConfigError(
                f"{asked} is for multi-query models, whose one key/value head every rank would copy; this one has "
                f"{model.n_kv_head}, which tensor_parallel_size splits already"
            )

    def check_draft(self, model: ModelConfig, draft: ModelConfig, windows: bool = True) -> None:
        """Raise ConfigError where a model of the second shape cannot draft for one of the first.

        windows: it is known how long sequences may get.
        """
        asked = f"draft_model={self.draft_model}"
        if self.speculative_tokens == 0:
            raise ConfigError(f"{asked} drafts nothing with speculative_tokens=0")
        if draft.vocab_size != model.vocab_size:
            raise ConfigError(
                f"{asked} has vocab_size={draft.vocab_size}, and the model {model.vocab_size}: a draft is made of the "
                "model's own tokens"
            )
        longest = self.max_model_len or model.n_positions
        if windows and draft.n_positions < longest:
            raise ConfigError(
                f"{asked} has a window of {draft.n_positions} positions, and sequences may have {longest}: set "
                "max_model_len, or take another one"
            )

    def check_cpu(self) -> None:
        """Raise ConfigError for what no CPU runs, whatever the model."""
        quantization = f"quantization={self.quantization}"
        if self.attention == "triton":
            if self.cpu_kernels == "native":
                raise ConfigError(
                    "attention=triton and cpu_kernels=native exclude each other: native attends by itself"
                )
        elif self.quantization not in ("none", "int8"):
            raise ConfigError(f"{quantization} needs a GPU; on a CPU there is int8")
        elif self.quantization != "none" and self.cpu_kernels == "torch":
            raise ConfigError(f"{quantization} needs our own kernels, not cpu_kernels=torch")
