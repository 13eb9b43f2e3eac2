"""What HAProxy is told of the settings. It is started anew at each change of the ingress processes, and what makes
settings takes three times as long to import as all else that is needed: here it is read without that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "STARCODER_"
LIMITS = {
    "max_head_bytes": int,
    "head_timeout_s": float,
    "body_timeout_s": float,
    "keep_alive_timeout_s": float,
    "write_timeout_s": float,
    "max_connections": int,
}
"""Of `ApiLimits`, that a proxy keeps to, and how each is read."""


@dataclass(frozen=True)
class FrontSettings:
    """host: to listen at; Ray's own choice if None. chain, key: files of the certificate; None without TLS. The limits
    are those of `ApiLimits`."""

    host: str | None
    chain: Path | None
    key: Path | None
    max_head_bytes: int
    head_timeout_s: float
    body_timeout_s: float
    keep_alive_timeout_s: float
    write_timeout_s: float
    max_connections: int


def said(environment: Mapping[str, str]) -> FrontSettings | None:
    """As `proxy_settings.variables` writes them. None where one is open or written otherwise: `ProxySettings` knows."""
    host, *files = (environment.get(_PREFIX + name) or None for name in ("HOST", "SSL_CERTFILE", "SSL_KEYFILE"))
    chain, key = (None if file is None else Path(file) for file in files)
    try:
        limits = {name: read(environment[f"{_PREFIX}API__{name.upper()}"]) for name, read in LIMITS.items()}
    except (KeyError, ValueError):
        return None
    known = all(limit > 0 for limit in limits.values()) and (chain is None) == (key is None)
    if not known or not all(file.is_absolute() for file in (chain, key) if file is not None):
        return None
    return FrontSettings(host, chain, key, **limits)
