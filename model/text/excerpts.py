"""As much of a text as a window can hold, as token ids that begin and end between characters."""

from __future__ import annotations

from collections.abc import Sequence

from model.text.tokenizer import Tokenizer
from model.text.truncation import left_cut

CHARS_PER_TOKEN = (8, 32)
"""How many characters for each token of the window are encoded: most code has 3 to 4, so the first will do.
The second is tried where it does not fill the window. What lies beyond is cut unread."""


def encode_end(tokenizer: Tokenizer, text: str, budget: int) -> list[int]:
    """Ids of the end of `text`: all, or more than `budget`, from an anchored character on."""
    for limit in (budget * chars for chars in CHARS_PER_TOKEN):
        start = left_cut(len(text), limit, limit // 4)
        ids = tokenizer.encode(text[start:])
        if start == 0 or len(ids) > budget:
            break
    return ids


def encode_start(tokenizer: Tokenizer, text: str, budget: int) -> list[int]:
    """Ids of the start of `text`: all, or more than `budget`."""
    for limit in (budget * chars for chars in CHARS_PER_TOKEN):
        ids = tokenizer.encode(text[:limit])
        if limit >= len(text) or len(ids) > budget:
            break
    return ids


def settled(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> int:
    """How many of `ids`, the end of `text`, no text typed behind it can change: those before the last white space.

    Words are encoded one by one, and white space as one run up to the next word.
    """
    open_bytes = len(unsettled(text).encode())
    count = len(ids)
    while open_bytes > 0 and count > 0:
        count -= 1
        open_bytes -= len(tokenizer.token_bytes(ids[count]))
    return count


def unsettled(text: str) -> str:
    """The last word of `text` with the white space before it; where white space ends the text, that alone."""
    before = text.rstrip()
    if text and len(before) == len(text):
        word = text.rsplit(maxsplit=1)[-1]
        before = text[: -len(word)].rstrip()
    return text[len(before) :]


def character_start(tokenizer: Tokenizer, ids: Sequence[int], start: int) -> int:
    """`start`, moved right past tokens that begin inside a UTF-8 character."""
    while 0 < start < len(ids) and _begins_inside(tokenizer, ids[start]):
        start += 1
    return start


def character_end(tokenizer: Tokenizer, ids: Sequence[int], end: int) -> int:
    """`end`, moved left until the token after it does not begin inside a UTF-8 character."""
    while 0 < end < len(ids) and _begins_inside(tokenizer, ids[end]):
        end -= 1
    return end


def _begins_inside(tokenizer: Tokenizer, id: int) -> bool:
    return b"\x80" <= tokenizer.token_bytes(id)[:1] < b"\xc0"
