"""What takes connections: HAProxy or Serve's own proxy. `starcoder environment` prints what Ray needs for it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from deployments.cluster import haproxy, proxy
from deployments.command.ports import claim, free_port
from deployments.options import OptionParser
from deployments.settings import Settings
from model.config import ConfigError

BEHIND = "127.0.0.1"
"""Where a machine's ingress processes listen for its HAProxy, and for nobody else."""


def parser() -> OptionParser:
    return Settings.parser("starcoder environment", "Print the environment that Ray needs for these settings.")


def run(arguments: Sequence[str]) -> int:
    """Print the environment that `ray start` needs on each node for these settings, for a shell. Raises ConfigError."""
    settings = Settings.from_command_line(arguments, parser())
    command = haproxy_command(settings)
    front = None if command is None else haproxy.environment(command)
    for name, value in proxy.environment(settings, front).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def haproxy_command(settings: Settings) -> str | None:
    """None where Serve's proxy it is. Raises ConfigError where HAProxy is wanted and not installed."""
    command = None if settings.proxy == "python" else haproxy.installed()
    if command is None and settings.proxy == "haproxy":
        raise ConfigError("proxy=haproxy, but HAProxy is not installed here; proxy=python does without")
    return command


def local_http_options(settings: Settings) -> dict[str, str | int]:
    """Serve's, on this machine: where HAProxy listens for clients, nothing else does."""
    behind_haproxy = haproxy_command(settings) is not None
    return http_options(settings, behind_haproxy) | ({"host": BEHIND} if behind_haproxy else {})


def http_options(settings: Settings, behind_haproxy: bool) -> dict[str, str | int]:
    """Serve's. Behind HAProxy, which has the certificate, it speaks TLS to nobody."""
    options: dict[str, str | int] = {"host": settings.host, "port": settings.port}
    if settings.certificate is not None and not behind_haproxy:
        options |= {"ssl_certfile": str(settings.ssl_certfile), "ssl_keyfile": str(settings.ssl_keyfile)}
    return options


def local_front(settings: Settings, directory: Path) -> dict[str, str] | None:
    """HAProxy's environment on this machine, with its files in `directory`; None where Serve's proxy it is.

    Raises ConfigError where HAProxy is wanted and not installed.
    """
    if (command := haproxy_command(settings)) is None:
        return None
    for port in filter(None, (settings.port, settings.metrics_port)):
        claim(port)  # nothing listens there yet
    return haproxy.environment(
        command,
        directory=directory,
        fallback_port=free_port(BEHIND),
        metrics=settings.metrics_port is not None,
    )
