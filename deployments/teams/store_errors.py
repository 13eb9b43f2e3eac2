"""What the store of teams refuses or cannot do. No text holds a key, a password or what was sent to the database."""

from __future__ import annotations


class StoreError(Exception):
    """The message is for whoever asked."""


class StoreUnavailableError(StoreError):
    """The database does not answer, or not in time; the same may succeed later."""


class TooLongError(StoreError):
    """A report that took too long; the same will do so again."""


class NotFoundError(StoreError):
    """There is no such team, key or member."""


class NotAllowedError(StoreError):
    """Who asked may not do so any more: what was known of them is seconds old, the database knows better."""


class InvalidChangeError(StoreError):
    """What was asked for cannot be; asking again does not help."""


class NameTakenError(InvalidChangeError):
    """Another team that is not archived has this name."""


class AuditBrokenError(StoreError):
    """Somebody changed the audit log past the store. number: of the first row that does not fit."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"audit row {number}: {reason}")
        self.number = number
