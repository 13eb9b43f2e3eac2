"""Bodies that come compressed: decoded, and never to more than the limit of a body."""

from __future__ import annotations

import zlib

from deployments.errors import BodyTooLargeError, InvalidRequestError, shown

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_MOST_MEMBERS = 16
"""Of a gzip body: each costs a copy of what follows it."""

_TAKEN = "gzip, deflate"
"""Value of `Accept-Encoding` in an answer that refuses a coding (RFC 9110, 12.5.3)."""


def coding_of(header: str) -> str | None:
    """What a `Content-Encoding` field names, None for nothing; raise InvalidRequestError (415) for others."""
    named = [name for part in header.lower().split(",") if (name := part.strip()) not in ("", "identity")]
    if len(named) > 1 or any(name not in ("gzip", "x-gzip", "deflate") for name in named):
        raise InvalidRequestError(
            f"The body's Content-Encoding is {shown(header)}; this server takes gzip or deflate, once.",
            status=415,
            code="unsupported_content_encoding",
            headers={"accept-encoding": _TAKEN},
        )
    return named[0] if named else None


def decoded(body: bytes, coding: str, max_bytes: int) -> bytes:
    """The body as it was before `coding`; raise BodyTooLargeError, InvalidRequestError where it is not coded so."""
    parts: list[bytes] = []
    size = 0
    try:
        for _ in range(_MOST_MEMBERS):
            decoder = zlib.decompressobj(_window(body, coding))
            part = decoder.decompress(body, max_bytes + 1 - size)
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise BodyTooLargeError(f"The body is larger than the limit of {max_bytes} bytes when it is decoded.")
            if not decoder.eof:
                raise zlib.error("it ends too early")
            body = decoder.unused_data
            if not body:
                return b"".join(parts)
            if coding == "deflate":
                break
        raise zlib.error("something follows it")
    except zlib.error:
        raise InvalidRequestError(
            f"The body is not what its Content-Encoding, {coding}, says.", code="invalid_content_encoding"
        ) from None


def _window(body: bytes, coding: str) -> int:
    if coding != "deflate":
        return _GZIP
    # Some clients send deflate without the wrapper that HTTP means by it (RFC 9110, 8.4.1.2).
    wrapped = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return _ZLIB if wrapped else _RAW
