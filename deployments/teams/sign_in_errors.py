"""Why nobody was signed in."""

from __future__ import annotations

_SHORTAGE = "The identity provider does not answer. Who is signed in already goes on; API keys work as before."


class SignInError(Exception):
    """Nobody was signed in. The message is for the person who tried; reason: for the log."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class LaterError(SignInError):
    """The same may succeed later."""


class ProviderAwayError(LaterError):
    def __init__(self, reason: str) -> None:
        super().__init__(_SHORTAGE, reason)
