"""Content that does not change while the server runs: ETag, 304, HEAD, gzip, and the headers that pages need."""

from __future__ import annotations

import gzip
import hashlib
from functools import cached_property

from starlette.requests import Request
from starlette.responses import Response

from deployments.api.common.off_loop import off_loop
from deployments.http.needs import public

_EVERYWHERE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

POLICY = f"{_EVERYWHERE}; img-src 'self'; require-trusted-types-for 'script'"
"""Content-Security-Policy of our pages: nothing inline, no eval, nothing from elsewhere, in nobody's frame."""

POLICY_OF_OTHERS = f"{_EVERYWHERE}; img-src 'self' data:"
"""The same for scripts of other people, which write HTML (cleaned by themselves) and have pictures in their styles."""

_COMPRESSED_FROM = 1024
_LONG = 65_536
"""Bytes that are compressed off the event loop."""


def page_headers(media_type: str, policy: str = POLICY) -> dict[str, str]:
    """What goes with every page and file of ours."""
    return {
        "content-type": media_type,
        "cache-control": "no-cache",
        "content-security-policy": policy,
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


class StaticContent:
    """One resource.

    The ETag is a digest of the content, not a file's time: it is the same on every node. Clients ask each time
    (`no-cache`) and mostly get a 304, so that after an upgrade no page mixes old files with new ones.
    """

    def __init__(self, content: bytes, media_type: str, policy: str = POLICY) -> None:
        self.content = content
        self._headers = page_headers(media_type, policy)

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()[:32]

    @cached_property
    def _compressed(self) -> bytes:
        return gzip.compress(self.content, 9, mtime=0)

    def _body(self, compress: bool) -> bytes:
        return self._compressed if compress else self.content

    @public
    async def respond(self, request: Request) -> Response:
        """The answer to a GET or HEAD."""
        compress = len(self.content) >= _COMPRESSED_FROM and _takes_gzip(request.headers.get("accept-encoding", ""))
        etag = f'"{self._digest}{"-gzip" if compress else ""}"'
        headers = {**self._headers, "etag": etag, "vary": "accept-encoding"}
        if _matches(request.headers.get("if-none-match", ""), etag):
            del headers["content-type"]
            return Response(status_code=304, headers=headers)
        body = await off_loop(len(self.content) > _LONG, self._body, compress)
        if compress:
            headers["content-encoding"] = "gzip"
        headers["content-length"] = str(len(body))
        return Response(b"" if request.method == "HEAD" else body, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    for entry in accepted.lower().split(","):
        coding, *parameters = (part.strip() for part in entry.split(";"))
        if coding == "gzip":
            return not any(parameter.replace(" ", "") in ("q=0", "q=0.0") for parameter in parameters)
    return False


def _matches(condition: str, etag: str) -> bool:
    """Weak comparison, as If-None-Match has it (RFC 9110, 13.1.2)."""
    known = [entry.strip().removeprefix("W/") for entry in condition.split(",")]
    return "*" in known or etag in known
