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
    """By `--url` or the environment."""
    found: str | None = options.url or os.environ.get(URL_VARIABLE)
    return found or None


def key_given(file: Path | None, variable: str) -> str | None:
    """From the file, else from the environment. Raises ConfigError for a file that holds none."""
    if file is None:
        return os.environ.get(variable, "").strip() or None
    try:
        key = file.expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"key file {file}: {reason}") from error
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"key file {file} holds no key, alone")
    return key


def bearer(key: str | None) -> dict[str, str]:
    """Headers of a request."""
    return {} if key is None else {"authorization": f"Bearer {key}"}
