"""Somebody signs in: what their browser keeps until they are back, and who they turn out to be."""

from __future__ import annotations

import msgspec


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """What a browser keeps while its person is at the provider: nobody else can finish what they began.

    state: comes back with the answer; nonce: with the token; verifier: shows the provider that who asks for the token
    is who sent the person there. target: where they go then.
    """

    state: str
    nonce: str
    verifier: str
    target: str


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Who the provider says it is. user: its `sub`. email: only one that it has verified."""

    user: str
    email: str | None
    name: str | None
    groups: frozenset[str]
