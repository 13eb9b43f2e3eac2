"""What `starcoder serve` knows to fail before it starts a process. Needs no Ray and no PyTorch: they take seconds."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from deployments.attribution.index import Index
from deployments.command.console import Console
from deployments.settings import Settings
from model.checkpoint.draft import find_draft
from model.checkpoint.files import Checkpoint
from model.checkpoint.hub import EMBEDDED_MODELS, directory_of, resolve_checkpoint
from model.config import ConfigError, ModelConfig
from model.text.tokenizer import Tokenizer


def check(settings: Settings, console: Console, local: bool) -> None:
    """Everything that can be known to fail before a process is started. Raises ConfigError."""
    if not local:
        return  # the cluster's nodes have other files, ports and GPUs
    if settings.certificate is not None:
        settings.certificate.check()
    check_model(settings, console)
    if settings.attribution.index is not None:
        Index.open(settings.attribution.index).close()
    check_port(settings.host, settings.port)
    if settings.metrics_port:
        check_port(settings.host, settings.metrics_port)


def check_model(settings: Settings, console: Console) -> Path:
    """The directory of the checkpoint, which is fetched if need be, and runs on this machine.

    Raises ConfigError where it can be known that it does not.
    """
    for name in (settings.model, settings.draft_model):
        if name is not None and name not in EMBEDDED_MODELS and directory_of(name) is None:
            console.say(f"Fetching {name} unless it is in the hub cache ...")
    directory = resolve_checkpoint(settings.model, settings.revision)
    model = ModelConfig.from_checkpoint(directory)
    settings.check_model(model)
    draft = find_draft(settings.engine_config(), model, directory)
    gpus = local_gpus()
    settings.check_gpus(gpus)
    if settings.device == "cpu" or (settings.device == "auto" and not gpus):
        check_cpu(settings)
    if settings.load_format == "auto":
        Checkpoint(directory).check(model)
        if draft is not None:
            Checkpoint(draft.directory).check(draft.model)
    Tokenizer.from_checkpoint(directory).check(model)
    return directory


def check_cpu(settings: Settings) -> None:
    """Raise ConfigError where the engines are to run what no CPU does, but for tests."""
    settings.engine_config().check_cpu()
    if settings.attention == "triton" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError("attention=triton needs a GPU")


def check_port(host: str, port: int) -> None:
    """Raise ConfigError unless this process could listen there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


NO_TOKEN = (
    ". A cluster of Ray 2.60 or later wants a token unless it was started without: set RAY_AUTH_MODE=token, and "
    "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or put it into ~/.ray/auth_token"
)


def has_token() -> bool:
    """Whether Ray finds a token to authenticate with."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


def local_gpus() -> int:
    """NVIDIA GPUs that a process started here would see; counted without loading a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])
    return present if visible is None else min(present, len([v for v in visible.split(",") if v.strip()]))
