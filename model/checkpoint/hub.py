"""From a model's name to a directory that holds its checkpoint."""

from __future__ import annotations

import os
import re
from pathlib import Path

from model.config import ConfigError

EMBEDDED = "nano"
"""What is served where nobody names a model."""
PICO = "pico"
"""A fifth of it: for tests, for measuring the shortest steps, and for tiny machines."""
EMBEDDED_MODELS = (EMBEDDED, PICO)
_TEXT_FILES = ["*.json", "*.txt", "*.jinja", "README.md"]
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_CARD_BYTES = 1 << 20


def directory_of(model: str) -> Path | None:
    """The directory that `model` names, absolute, whether it is there or not; None: a hub id, or an embedded model.

    What could be a hub id names a directory where there is one now.
    """
    if model in EMBEDDED_MODELS or not model.strip():
        return None
    given = Path(model).expanduser()
    path = Path(os.path.abspath(given))
    is_no_id = given.is_absolute() or model.startswith(".") or model.count("/") > 1
    return path if is_no_id or path.is_dir() else None


def resolve_checkpoint(model: str, revision: str | None = None) -> Path:
    """The local directory of `model`: an embedded model's name, a directory, or a Hugging Face hub id.

    Hub ids use the hub's own cache, `HF_HOME`, `HF_HUB_OFFLINE` and `HF_TOKEN`. Safetensors are preferred; pickled
    weights are fetched only where a repository has nothing else.
    Raises ConfigError that says what to do where the checkpoint cannot be had.
    """
    if model in EMBEDDED_MODELS:
        from model.pico import CHECKPOINT, NANO

        return NANO if model == EMBEDDED else CHECKPOINT
    path = directory_of(model)
    if path is not None and path.is_dir():
        return path
    if path is not None or not model.strip():
        raise ConfigError(f"model {model!r}: no such directory, and not a hub id of the form 'owner/name'")
    return _download(model, revision)


def revision_of(checkpoint: Path) -> str | None:
    """The commit of a checkpoint in the hub's cache; None where it is elsewhere."""
    return checkpoint.name if checkpoint.parent.name == "snapshots" and _COMMIT.fullmatch(checkpoint.name) else None


def model_card(checkpoint: Path) -> str | None:
    """The checkpoint's `README.md`, which may be bad UTF-8, up to 1 MiB of it; None where there is none to read."""
    try:
        with (checkpoint / "README.md").open("rb") as file:
            return file.read(_MAX_CARD_BYTES).decode(errors="replace")
    except OSError:
        return None


def _download(model: str, revision: str | None) -> Path:
    from huggingface_hub import constants, get_token, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def fetch(patterns: list[str]) -> Path:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))

    try:
        directory = fetch([*_TEXT_FILES, "*.safetensors"])
        if not any(directory.glob("*.safetensors")):
            directory = fetch([*_TEXT_FILES, "*.safetensors", "pytorch_model*.bin"])
    except HFValidationError as error:
        raise ConfigError(f"model {model!r} is neither a directory nor a valid hub id: {error}") from error
    except GatedRepoError as error:
        token = "is set, but has no access" if get_token() else "is not set"
        raise ConfigError(
            f"model {model!r} is gated: accept its licence on its hub page, then set HF_TOKEN (now it {token})"
        ) from error
    except RevisionNotFoundError as error:
        raise ConfigError(f"model {model!r} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"model {model!r}: no such directory here and no such repository on the hub (a private one needs HF_TOKEN)"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise ConfigError(
            f"model {model!r} is not a directory here, not in the hub cache ({constants.HF_HUB_CACHE}), and {reason}"
        ) from error
    return directory
