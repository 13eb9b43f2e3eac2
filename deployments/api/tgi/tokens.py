"""Tokens as Text Generation Inference writes them: each with the text that it adds."""

from __future__ import annotations

from collections import deque
from typing import Any

from deployments.api.common.line_ends import DosText
from deployments.api.openai.logprobs import finite
from deployments.protocol import Delta
from model.request import TokenLogprobs
from model.text.detokenizer import Detokenizer
from model.text.tokenizer import Tokenizer

WrittenToken = tuple[dict[str, Any], list[dict[str, Any]]]
"""A token and its alternatives."""


class TokenWriter:
    """Tokens of one sequence. A token waits until it is certain that its text belongs to the completion.

    text: of the completion so far. dos: its lines end in CR LF, whatever the tokens say.
    """

    def __init__(self, tokenizer: Tokenizer, top: int, dos: bool = False) -> None:
        self._tokenizer = tokenizer
        self._top = top
        self._detokenizer = Detokenizer(tokenizer)
        self._lines = DosText() if dos else None
        self._left = 0
        self._waiting: deque[tuple[TokenLogprobs, str]] = deque()
        self._parts: list[str] = []

    def write(self, delta: Delta) -> list[WrittenToken]:
        """The tokens that have become certain with this delta; with the last delta, all."""
        self._parts.append(delta.text)
        self._left += len(delta.text)
        pieces = [self._piece(token_id) for token_id in delta.token_ids]
        self._waiting += zip(delta.logprobs or [], pieces, strict=True)
        if delta.finish_reason is not None and self._waiting:
            # What is left of a character belongs to the last token.
            entry, piece = self._waiting[-1]
            self._waiting[-1] = (entry, piece + self._detokenizer.flush())
        written = []
        while self._waiting and (delta.finish_reason is not None or len(self._waiting[0][1]) <= self._left):
            entry, piece = self._waiting.popleft()
            # Nothing goes on behind the end of the text.
            shown = piece[: max(self._left, 0)]
            self._left -= len(piece)
            written.append((self._token(entry.token_id, entry.logprob, shown), self._alternatives(entry)))
        return written

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def _piece(self, token_id: int) -> str:
        piece = self._detokenizer.push([token_id])
        return self._lines.push(piece) if self._lines else piece

    def end_of_text(self) -> WrittenToken:
        """For a text that ended without another token."""
        return self._token(self._tokenizer.eos_id, 0.0, ""), []

    def _token(self, token_id: int, logprob: float, text: str) -> dict[str, Any]:
        special = token_id in self._tokenizer.special_ids
        shown = self._tokenizer.token_text(token_id) if special else text
        return {"id": token_id, "text": shown, "logprob": finite(logprob), "special": special}

    def _alternatives(self, entry: TokenLogprobs) -> list[dict[str, Any]]:
        return [self._token(i, logprob, self._tokenizer.token_text(i)) for i, logprob in entry.top[: self._top]]
