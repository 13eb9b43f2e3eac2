"""What values of a body are refused with, beyond its schema."""

from __future__ import annotations

from collections.abc import Collection

from deployments.errors import InvalidRequestError

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
UINT64_MAX = 2**64 - 1


def refuse_if(condition: bool, field: str, problem: str) -> None:
    if condition:
        raise InvalidRequestError(f"`{field}`: {problem}.", param=field, code="invalid_value")


def refuse_more(field: str, count: int, most: int) -> None:
    """Raise InvalidRequestError for a field with more than `most` entries."""
    refuse_if(count > most, field, f"has {count} entries; at most {most} are allowed")


def check_token_ids(field: str, ids: Collection[int], vocab_size: int) -> None:
    """Raise InvalidRequestError for the first id outside the vocabulary."""
    if ids and (min(ids) < 0 or max(ids) >= vocab_size):
        wrong = next(token_id for token_id in ids if not 0 <= token_id < vocab_size)
        refuse_if(True, field, f"token id {wrong} is outside the vocabulary (0 to {vocab_size - 1})")
