"""Who may come in: by which name a client calls this server, and which web pages may speak to it.

A browser runs pages of anybody, on a machine that may reach this server. A page whose name was made to point here
(DNS rebinding) gives itself away by `Host`, a page of somebody else's by `Origin`; programs and editors send none.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import InvalidRequestError, NotFoundError, ServeError
from deployments.http.middleware import error_response, error_shape, request_id
from deployments.http.request_record import report

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_READABLE = (
    *("x-request-id", "retry-after", "retry-after-ms", "x-should-retry", "x-prompt-tokens", "x-generated-tokens"),
    *("x-warnings", "x-generated-by", "link"),
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
)
"""Header fields of answers that pages of other origins may read."""


@dataclass(frozen=True)
class Access:
    """bound_to: the address that the server listens on; None leaves names alone, unless `hosts` says some.

    hosts: names of the server, `*.example.com` for all below one; where it listens on loopback only, besides those.
    origins: of web pages that may use it, with `*` for any text: `vscode-webview://*`; one `*` alone: all pages.
    """

    bound_to: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def answers_to(self, name: str, local_address: str | None) -> bool:
        """name: what `Host` says, without a port. local_address: of the connection; None: not known."""
        if name == self.bound_to or name in _LOOPBACK_NAMES or self._names.fullmatch(name):
            return True
        if self.hosts:
            return False
        # A server that others start may listen elsewhere than its settings say.
        return not (is_loopback(self.bound_to) and (local_address is None or is_loopback(local_address)))

    def welcomes(self, origin: str, host: str, scheme: str = "http") -> bool:
        """Whether a page of this origin may ask the server that it calls `host`, by this scheme."""
        return _is_same(origin, host, scheme) or self.origin_pattern.fullmatch(origin) is not None

    @cached_property
    def _names(self) -> re.Pattern[str]:
        return _any_of(self.hosts, re.IGNORECASE)

    @cached_property
    def origin_pattern(self) -> re.Pattern[str]:
        return _any_of(self.origins)

    def cors(self) -> Iterable[Middleware]:
        """What answers the questions of browsers; nothing where no page of another origin may come."""
        if self.origins:
            yield Middleware(
                CORSMiddleware,
                allow_origins=["*"] if "*" in self.origins else [],
                allow_origin_regex=self.origin_pattern.pattern,
                allow_methods=["GET", "HEAD", "POST"],
                allow_headers=["*"],
                expose_headers=_READABLE,
                allow_private_network=True,
            )


ANYBODY = Access()
"""Every name will do, and pages of no other origin."""


def is_loopback(address: str | None) -> bool:
    if address is None or address == "localhost":
        return address is not None
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _any_of(patterns: Iterable[str], flags: int = 0) -> re.Pattern[str]:
    """Matches what one of them matches, `*` being any text; without patterns, nothing."""
    return re.compile("|".join(re.escape(p).replace(r"\*", ".*") for p in patterns) or r"(?!)", flags)


def _name_of(host: str) -> str | None:
    """The name in a `Host` field, without port and brackets, in lower case; None where it is none."""
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d*)?", host, re.ASCII):
        return None
    return (urlsplit(f"//{host}").hostname or "").rstrip(".")


def _is_same(origin: str, host: str, scheme: str) -> bool:
    """Whether a page came from here. Where this is http, the page's may be https: a proxy in front speaks TLS then."""
    if scheme == "https" and not origin.startswith("https:"):
        return False  # somebody on the way may have written it
    try:
        page = urlsplit(origin)
        here = urlsplit(f"{page.scheme}://{host}")
        default = _DEFAULT_PORTS.get(page.scheme)
        ends = [(url.hostname, url.port or default) for url in (page, here)]
    except ValueError:
        return False
    return default is not None and ends[0] == ends[1]


class DoorMiddleware:
    """Refuses requests under names that are not this server's, and those of pages that may not speak to it, with 403.

    And paths with control characters: what stands before and behind reads them differently.

    on_refused: told of every POST among them.
    """

    def __init__(self, app: ASGIApp, access: Access, on_refused: Callable[[ServeError], None]) -> None:
        self.app = app
        self.access = access
        self.on_refused = on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(scope) if scope["type"] == "http" else None
        if problem is None:
            await self.app(scope, receive, send)
            return
        report(problem, request_id(scope))
        if scope["method"] == "POST":
            self.on_refused(problem)
        await error_response(problem, error_shape(scope))(scope, receive, send)

    def _problem(self, scope: Scope) -> ServeError | None:
        if _CONTROL.search(scope["path"]):
            return NotFoundError("There is nothing at a path with control characters in it.")
        headers, server = Headers(scope=scope), scope.get("server")
        hosts = headers.getlist("host")
        for host in hosts:
            name = _name_of(host)
            if name is None or not self.access.answers_to(name, server and server[0]):
                return InvalidRequestError(
                    "This server does not go by the name in the request's Host; --allowed-hosts gives it more names.",
                    status=403,
                    code="host_not_allowed",
                )
        for origin in headers.getlist("origin"):
            if not self.access.welcomes(origin, hosts[0] if hosts else "", scope.get("scheme", "http")):
                return InvalidRequestError(
                    "Web pages of this Origin may not use this server; --allowed-origins lets them.",
                    status=403,
                    code="origin_not_allowed",
                )
        return None
