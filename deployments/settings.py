"""Every setting, once: the command's options, the environment, the YAML file and the Serve builder's argument.

Precedence: command line (or the builder's `key=value`), then `STARCODER_*` variables, then the YAML file, then the
defaults. Only this module reads the environment, and `deployments.cluster.proxy`, whose processes get no settings.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from deployments.attribution_settings import AttributionSettings
from deployments.certificate import AbsolutePath, Certificate
from deployments.limits import ApiLimits, Names
from deployments.options import OptionParser
from deployments.settings_file import read_yaml
from deployments.settings_options import add_options, declared, given
from deployments.sizes import Size
from deployments.team_settings import TeamsSettings
from deployments.variables import ENV_PREFIX, NESTED, check_environment
from deployments.wrong_settings import explain
from model.checkpoint.hub import EMBEDDED, directory_of
from model.config import (
    NO_DRAFT_MODEL,
    AllReduce,
    AttentionBackend,
    ConfigError,
    CpuKernels,
    Device,
    DType,
    EngineConfig,
    ModelConfig,
    Quantization,
)
from monitoring.logs import LogFormat, LogLevel
from monitoring.tracing import check_otlp, endpoint_of

SUBJECTS = {
    "model": "the model",
    "tensor_parallel_size": "the engine",
    "host": "the server",
    "api": "bounds of requests and connections",
    "teams": "teams, keys, prices and sign-on",
    "attribution": "whose code answers repeat",
    "min_replicas": "replicas",
    "start_timeout_s": "failure and shutdown",
    "log_level": "log, metrics and traces",
}
"""Titles for people, by the setting that each part begins with."""

_EPILOG = (
    "Each is a variable and a line of the YAML file, too: --api.max-fan-out is STARCODER_API__MAX_FAN_OUT, and "
    "max_fan_out below api. Options go before variables, and these before the file. Sizes are written 24GiB or 1.5GB."
)


def _engine(name: str) -> Any:
    """The engine's own default."""
    return EngineConfig.model_fields[name].default


class Settings(BaseSettings):
    """Serve a StarCoder model behind an OpenAI-compatible API."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=NESTED,
        nested_model_default_partial_update=True,
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
    )

    config: Path | None = Field(default=None, description="YAML file of these settings, by their names.")

    # The model
    model: str = Field(
        default=EMBEDDED,
        min_length=1,
        description="Checkpoint directory, Hugging Face hub id, or an embedded model: nano, or pico for tiny machines.",
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a hub id.")
    served_model_name: str | None = Field(default=None, min_length=1, description="The name that clients use.")
    dtype: DType = Field(default=_engine("dtype"), description="Number format of weights and cache.")
    device: Device = Field(
        default=_engine("device"), description="Where the model runs; auto takes a GPU if there is one."
    )
    load_format: Literal["auto", "random"] = Field(
        default=_engine("load_format"), description="random: seeded noise instead of weights, for benchmarks."
    )

    # The engine
    tensor_parallel_size: int = Field(default=1, ge=1, description="GPUs (or CPU processes) that share one model.")
    decode_context_parallel_size: int = Field(default=1, ge=1, description="How many of them share one KV cache.")
    max_model_len: int | None = Field(
        default=_engine("max_model_len"),
        ge=2,
        description="Longest prompt plus completion, in tokens; the model's window if not given.",
    )
    max_num_seqs: int = Field(default=_engine("max_num_seqs"), ge=1, description="Most sequences in one step.")
    max_num_batched_tokens: int | None = Field(
        default=_engine("max_num_batched_tokens"), ge=16, description="Most tokens in one step; by device if not given."
    )
    target_inter_token_latency_s: float | None = Field(
        default=_engine("target_inter_token_latency_s"),
        ge=0,
        allow_inf_nan=False,
        description="Longest step aimed for while somebody gets tokens: prompts beside them are computed in smaller "
        "parts. 0: no target. If not given, 0.05 on a GPU and none on a CPU.",
    )
    block_size: int = Field(default=_engine("block_size"), ge=1, description="Tokens in one cache block.")
    num_kv_blocks: int | None = Field(default=_engine("num_kv_blocks"), ge=2, description="KV blocks; else computed.")
    kv_cache_memory: Size = Field(default=_engine("kv_cache_memory"), gt=0, description="KV cache on a CPU.")
    gpu_memory_utilization: float = Field(
        default=_engine("gpu_memory_utilization"),
        gt=0,
        le=1,
        description="Share of a GPU's memory for weights and cache.",
    )
    enable_prefix_caching: bool = Field(
        default=_engine("enable_prefix_caching"), description="Reuse the cache of shared prefixes."
    )
    speculative_tokens: int | None = Field(
        default=_engine("speculative_tokens"),
        ge=0,
        le=64,
        description="Longest draft looked up in the prompt and output; 0: no speculation. The text stays the same. "
        "8 if not given.",
    )
    draft_model: str | None = Field(
        default=_engine("draft_model"),
        min_length=1,
        description="A small model of the same tokenizer that drafts where nothing is found. The text stays the same.",
    )
    draft_revision: str | None = Field(
        default=_engine("draft_revision"), description="Branch, tag or commit of its hub id."
    )
    num_threads: int | None = Field(
        default=_engine("num_threads"),
        ge=1,
        description="CPU threads of one rank; the cores divided by the ranks if not given.",
    )
    cpu_kernels: CpuKernels = Field(
        default=_engine("cpu_kernels"),
        description="On a CPU: native is our forward pass (bfloat16, AVX-512, needs a C compiler once), "
        "torch is PyTorch's; auto takes the first where it can run.",
    )
    attention: AttentionBackend = Field(
        default=_engine("attention"),
        description="On a GPU: torch gathers the cache's blocks, triton is our own paged kernels; auto takes these "
        "where a check at the start finds them right.",
    )
    cuda_graphs: bool = Field(
        default=_engine("cuda_graphs"),
        description="On a GPU, with our paged kernels: record decode steps at the start and replay them.",
    )
    all_reduce: AllReduce = Field(
        default=_engine("all_reduce"),
        description="How GPUs that share a model add up a layer: nccl, or, in steps of few rows, fused with the norm "
        "behind it, through each other's memory; not timed on several GPUs yet.",
    )
    async_scheduling: bool | None = Field(
        default=_engine("async_scheduling"),
        description="Prepare a step while the one before runs; on GPUs if not given.",
    )
    quantization: Quantization = Field(
        default=_engine("quantization"),
        description="int8: weights in 8 bits, on a CPU also what they are multiplied with; faster and less exact. "
        "fp8: the same on GPUs of the kinds Ada and Hopper.",
    )
    seed: int | None = Field(
        default=_engine("seed"),
        description="Where requests without a seed take their randomness from: every start then repeats the same "
        "draws. If not given, no two of them draw the same.",
    )

    # The server
    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for all interfaces.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port to listen on.")
    proxy: Literal["auto", "haproxy", "python"] = Field(
        default="auto", description="What takes connections: HAProxy, where it is installed, or Ray Serve's own proxy."
    )
    ssl_certfile: AbsolutePath | None = Field(default=None, description="Certificate and its chain (PEM), for HTTPS.")
    ssl_keyfile: AbsolutePath | None = Field(default=None, description="Its private key (PEM, without a passphrase).")
    allowed_hosts: Names = Field(
        default=(),
        description="Names, as in a,*.b.example, by which requests may call it, besides those of loopback. If not "
        "given: no others where it listens on loopback, else any.",
    )
    allowed_origins: Names = Field(
        default=(),
        description="Origins of other web pages that may use the server, as in https://a.example,vscode-webview://*.",
    )
    api: ApiLimits = ApiLimits()
    teams: TeamsSettings = Field(default_factory=TeamsSettings)
    attribution: AttributionSettings = AttributionSettings()

    # Replicas
    min_replicas: int = Field(default=1, ge=1, description="Fewest engines.")
    max_replicas: int | None = Field(
        default=None, ge=1, description="Most engines; above min-replicas Serve scales between the two."
    )
    target_queue_delay_s: float = Field(
        default=0.05, gt=0, le=60, description="Predicted wait of a prompt that autoscaling aims for."
    )
    target_ongoing_requests: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Most sequences an engine, for autoscaling; 4/5 of max-num-seqs if not given.",
    )
    target_kv_usage: float = Field(default=0.8, gt=0, le=1, description="Cache use that autoscaling aims for.")
    upscale_delay_s: float = Field(default=4.0, ge=0, description="Load must last so long before scaling up.")
    downscale_delay_s: float = Field(
        default=180.0, ge=0, allow_inf_nan=False, description="Engines that were needed so lately are kept."
    )
    routing_imbalance: int = Field(
        default=8,
        ge=0,
        description="An engine gets requests whose prefix it holds until it is this many busier than another.",
    )
    ingress_replicas: int = Field(default=1, ge=1, description="HTTP front processes.")
    cpus_per_rank: float = Field(default=1.0, gt=0, description="CPUs that Ray reserves for each rank.")
    max_queued_requests: int = Field(
        default=256, ge=0, description="Sequences that may wait in one engine; more are answered 429."
    )

    # Failure and shutdown
    start_timeout_s: float = Field(default=1800.0, gt=0, description="An engine must have loaded after this long.")
    step_timeout_s: float = Field(
        default=60.0, gt=0, description="An engine silent for so long while it has work is replaced."
    )
    health_check_period_s: float = Field(default=5.0, gt=0, description="Time between heartbeats of an engine.")
    resume_timeout_s: float = Field(
        default=30.0, ge=0, description="A request whose engine has died, or that finds none, waits so long for one."
    )
    drain_timeout_s: float = Field(default=30.0, ge=0, description="Open streams may finish for so long at shutdown.")

    # Watching
    log_level: LogLevel = Field(default="info", description="Least important log lines that are written.")
    log_format: LogFormat = Field(
        default="auto", description="json: an object a line; text: for people; auto: text on a terminal only."
    )
    log_file: Path | None = Field(
        default=None,
        description="File or pipe that the log is appended to on each node; standard output if not given.",
    )
    log_text: bool = Field(default=False, description="Write prompts and completions to the log.")
    otlp_endpoint: str | None = Field(
        default_factory=lambda: endpoint_of(os.environ),
        description="URL of an OpenTelemetry collector (OTLP over HTTP), which turns traces on; "
        "OTEL_EXPORTER_OTLP_ENDPOINT if not given.",
    )
    trace_sample_ratio: float = Field(
        default=1.0, ge=0, le=1, description="Share of requests traced, where the caller has not decided it."
    )
    metrics_dir: Path | None = Field(
        default=None,
        description="Directory, one a node, in which processes share their metrics; `starcoder serve` makes one.",
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of an exporter on each node; 0: a free one, announced below metrics-dir in targets/. "
        "/metrics shows them too.",
    )
    device_bandwidth: Size | None = Field(
        default=None,
        gt=0,
        description="What one device can read in a second (3.35TB), to show how near the engine comes.",
    )
    device_flops: float | None = Field(
        default=None, gt=0, description="Floating-point operations a second that one device can do, likewise."
    )

    @field_validator("model", "draft_model")
    @classmethod
    def _settled(cls, model: str | None) -> str | None:
        """A directory is named for good: its replicas may be elsewhere, and it may be gone when they start anew."""
        directory = directory_of(model) if model is not None else None
        return model if directory is None else str(directory)

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas={self.max_replicas} is below min_replicas={self.min_replicas}")
        if self.max_num_batched_tokens is not None and self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens={self.max_num_batched_tokens} is below max_num_seqs={self.max_num_seqs}: "
                "every sequence in a step takes at least one token"
            )
        if self.draft_revision is not None and self.draft_model is None:
            raise ValueError(NO_DRAFT_MODEL)
        Certificate.of(self.ssl_certfile, self.ssl_keyfile)
        if self.metrics_port == self.port:
            raise ValueError(f"metrics_port and port are both {self.port}")
        if self.otlp_endpoint is not None:
            check_otlp(self.otlp_endpoint, os.environ)
        if self.device == "cpu" and self.dtype == "float16":
            raise ValueError("dtype=float16 needs a GPU; on a CPU use bfloat16 or float32")
        return self

    @property
    def most_replicas(self) -> int:
        return self.max_replicas or self.min_replicas

    @property
    def certificate(self) -> Certificate | None:
        return Certificate.of(self.ssl_certfile, self.ssl_keyfile)

    @property
    def target_sequences(self) -> float:
        """An engine whose places are all taken lets prompts wait, whatever its cache holds."""
        return self.target_ongoing_requests or 0.8 * self.max_num_seqs

    @property
    def model_id(self) -> str:
        """The name clients use: as given, else the hub id, else the directory's name."""
        if self.served_model_name:
            return self.served_model_name
        directory = directory_of(self.model)
        return self.model if directory is None else directory.name

    def engine_config(self, **changes: Any) -> EngineConfig:
        """What one engine needs of this; `changes` replace what was resolved since (directory, device, threads)."""
        values = {name: getattr(self, name) for name in EngineConfig.model_fields if name in type(self).model_fields}
        return EngineConfig(**(values | changes))

    def check_model(self, model: ModelConfig) -> None:
        """Raise ConfigError where these settings do not fit the checkpoint."""
        self.engine_config().check_ranks(model)
        if self.max_model_len is not None and self.max_model_len > model.n_positions:
            raise ConfigError(
                f"max_model_len={self.max_model_len} is above the model's window of {model.n_positions} tokens "
                "(learned positions: it cannot be stretched)"
            )

    def check_gpus(self, available: int) -> None:
        """Raise ConfigError where more GPUs are asked for than this machine has."""
        needed = self.tensor_parallel_size * self.min_replicas
        if available < needed and (self.device == "cuda" or (self.device == "auto" and available)):
            raise ConfigError(
                f"tensor_parallel_size={self.tensor_parallel_size} times min_replicas={self.min_replicas} needs "
                f"{needed} GPU(s); this machine has {available} (device=cpu runs the ranks as CPU processes)"
            )

    @classmethod
    def parser(
        cls, program: str = "starcoder serve", description: str | None = None, only: Container[str] | None = None
    ) -> OptionParser:
        """An option for each setting. description: of the program, if it does something else than to serve. only: names
        of the settings that make a difference to it."""
        parser = OptionParser(program, description or cls.__doc__ or "", f"{program} [options]", _EPILOG)
        add_options(parser, cls, SUBJECTS, only)
        return parser

    @classmethod
    def from_command_line(cls, arguments: Sequence[str], parser: OptionParser | None = None) -> Settings:
        """parser: of `parser`. Raises ConfigError; exits after `--help` and on what is no option."""
        return cls.from_options((parser or cls.parser()).parse_args(list(arguments)))

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> Settings:
        """options: as a parser of `parser` found them, and nothing else. Raises ConfigError."""
        try:
            return cls(**given(options))
        except ValidationError as error:
            raise ConfigError(explain(error, [name for name, _ in declared(cls)])) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        check_environment(os.environ, settings_cls.model_fields)
        given = init_settings() if isinstance(init_settings, InitSettingsSource) else {}
        path = given.get("config") or os.environ.get(f"{ENV_PREFIX}CONFIG")
        file = InitSettingsSource(settings_cls, init_kwargs=read_yaml(Path(path), cls.model_fields) if path else {})
        return init_settings, env_settings, file
