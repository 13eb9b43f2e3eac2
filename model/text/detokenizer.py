"""Tokens of one stream to text, as soon as the text is certain."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from model.text.tokenizer import Tokenizer

_INCREMENTAL = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """The text of a growing sequence. What `push` and `flush` return joins to `tokenizer.decode` of all ids.

    A token may end inside a character: its bytes (three at most) wait for the next token. Bytes that cannot
    become a character come out as U+FFFD as soon as that is certain.

    offsets: for each token, the index in the whole text of the character in which its bytes begin.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        self.offsets: list[int] = []
        self._token_bytes = tokenizer.token_bytes
        self._skipped = tokenizer.special_ids if skip_special else frozenset()
        self._decoder = _INCREMENTAL(errors="replace")
        self._length = 0

    def push(self, ids: Iterable[int]) -> str:
        return "".join([self._push(id) for id in ids])

    def flush(self) -> str:
        """End of the sequence: what is left of an unfinished character, as U+FFFD."""
        return self._decoder.decode(b"", final=True)

    def _push(self, id: int) -> str:
        data = b"" if id in self._skipped else self._token_bytes(id)
        if not self._pending:
            self.offsets.append(self._length)
            text = self._decode(data)
        else:
            text = self._decode(data[:1])
            # The waiting bytes turn out to be broken if they came out without this token's first byte.
            broken = len(text) == 2 or (len(text) == 1 and self._pending)
            self.offsets.append(self._length + broken)
            text += self._decode(data[1:])
        self._length += len(text)
        return text

    def _decode(self, data: bytes) -> str:
        text = self._decoder.decode(data)
        waiting = self._decoder.getstate()[0]
        # Python waits for the third byte of an encoded surrogate, though two show that it is no character.
        if waiting[:1] == b"\xed" and waiting[1:2] >= b"\xa0":
            self._decoder.reset()
            text += "\ufffd" * len(waiting)
        return text

    @property
    def _pending(self) -> bool:
        return bool(self._decoder.getstate()[0])
