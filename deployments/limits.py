"""What one HTTP request may ask for, whatever its dialect, and lists of names in settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode

from deployments.sizes import ByteCount
from deployments.written_as import WrittenAs


def _split(value: Any) -> Any:
    return [name for part in value.split(",") if (name := part.strip())] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), WrittenAs("NAME,...")]
"""A setting that is a list, or one text with commas."""


class ApiLimits(BaseModel):
    """Bounds checked before any work starts.

    Those of heads and connections are kept by Serve's proxies, for which `deployments.cluster.proxy` puts them into the
    environment that Ray starts in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_body_bytes: ByteCount = Field(default=4 << 20, ge=1024, description="Largest request body.")
    body_timeout_s: float = Field(default=60.0, gt=0, description="A body must have arrived after this long.")
    max_head_bytes: ByteCount = Field(
        default=64 << 10, ge=4096, description="Largest head of a request: its first line and its header fields."
    )
    head_timeout_s: float = Field(default=20.0, gt=0, description="A head must have arrived after this long.")
    keep_alive_timeout_s: int = Field(default=90, ge=1, description="An idle connection is closed after this long.")
    write_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="A client for which data waits must take 16 KiB of it in this time, or its connection is cut.",
    )
    max_connections: int = Field(
        default=4096, ge=1, description="Most connections of one proxy; one that is idle makes room for a new one."
    )
    max_fan_out: int = Field(default=128, ge=1, description="Most completions of one request: prompts times best_of.")
    max_stop_strings: int = Field(default=16, ge=1, description="Most stop strings, and most stop token ids.")
    max_stop_chars: int = Field(default=1024, ge=1, description="Longest stop string, in characters.")
    max_logprobs: int = Field(default=20, ge=0, description="Most alternatives reported for a token.")
    max_logit_bias: int = Field(default=1024, ge=0, description="Most entries of `logit_bias`.")
    default_fim_mode: Literal["auto", "psm", "spm"] = Field(
        default="auto",
        description="Order of a fill-in-the-middle prompt where the request leaves it open. auto: `fim_mode` of the "
        "checkpoint's tokenizer_config.json, else SPM for BigCode's vocabularies, else PSM.",
    )
