"""The engine: token ids in, token ids out. It knows neither Ray nor HTTP.

Names load on first use, so that processes which only talk to an engine do not import PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Engine": "engine",
    "EngineClient": "process.client",
    "EngineConfig": "config",
    "ModelConfig": "config",
    "Output": "request",
    "Rank": "process.rank",
    "Request": "request",
    "SamplingParams": "request",
    "Tokenizer": "text.tokenizer",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(import_module(f"model.{_HOMES[name]}"), name)
