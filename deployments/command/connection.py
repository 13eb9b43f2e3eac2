"""To which server a command speaks, and with which key: never an argument, which every user of the machine can see."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import httpx

from deployments.variables import ENV_PREFIX
from model.config import ConfigError

URL_VARIABLE = f"{ENV_PREFIX}URL"
ADMIN_KEY_VARIABLE = f"{ENV_PREFIX}ADMIN_KEY"
API_KEY_VARIABLE = f"{ENV_PREFIX}API_KEY"

TIMEOUT = httpx.Timeout(10, read=300)


def url_given(options: argparse.Namespace) -> str | None:
    """By `--url` or the environment. Raises ConfigError for what is none."""
    found: str | None = options.url or os.environ.get(URL_VARIABLE)
    try:
        httpx.URL(found or "")
    except httpx.InvalidURL as error:
        raise ConfigError(f"{found!r} is no URL: {error}") from error
    return found or None


def key_given(file: Path | None, variable: str) -> str | None:
    """From the file, else from the environment. Raises ConfigError where there is something else than one key."""
    if file is None:
        key = os.environ.get(variable, "").strip()
        return _checked(key, variable) if key else None
    try:
        return _checked(file.expanduser().read_text().strip(), f"key file {file}")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"key file {file}: {reason}") from error


def _checked(key: str, place: str) -> str:
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{place} holds no key, alone")
    return key


def bearer(key: str | None) -> dict[str, str]:
    """Headers of a request."""
    return {} if key is None else {"authorization": f"Bearer {key}"}
