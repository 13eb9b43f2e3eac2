"""Log-probabilities as OpenAI's legacy completions and its chat completions write them.

Source: https://platform.openai.com/docs/api-reference/completions/object, field `choices[].logprobs`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from model.request import TokenLogprobs
from model.text.detokenizer import Detokenizer
from model.text.tokenizer import Tokenizer

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot write."""


def token_string(tokenizer: Tokenizer, token_id: int) -> str:
    r"""A token's text; a token that is no whole UTF-8 text is written `bytes:\xe2\x80`, as OpenAI does."""
    raw = tokenizer.token_bytes(token_id)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def prompt_offsets(tokenizer: Tokenizer, ids: Iterable[int]) -> list[int]:
    """Where each token of an echoed prompt begins, in characters."""
    detokenizer = Detokenizer(tokenizer, skip_special=False)
    detokenizer.push(ids)
    return detokenizer.offsets


def legacy_logprobs(
    tokenizer: Tokenizer,
    token_ids: Sequence[int],
    entries: Sequence[TokenLogprobs | None],
    offsets: Sequence[int],
    top: int,
) -> dict[str, Any]:
    """`tokens`, `token_logprobs`, `top_logprobs` (the `top` best and the chosen one) and `text_offset`.

    An entry of None is the first token of a prompt, which nothing predicts: null.
    """
    return {
        "tokens": [token_string(tokenizer, token_id) for token_id in token_ids],
        "token_logprobs": [None if entry is None else finite(entry.logprob) for entry in entries],
        "top_logprobs": [None if entry is None else _alternatives(tokenizer, entry, top) for entry in entries],
        "text_offset": list(offsets),
    }


def _alternatives(tokenizer: Tokenizer, entry: TokenLogprobs, top: int) -> dict[str, float]:
    ranked = [*entry.top[:top], (entry.token_id, entry.logprob)]
    return {token_string(tokenizer, token_id): finite(logprob) for token_id, logprob in ranked}


def finite(logprob: float) -> float:
    """A number that JSON can write."""
    return logprob if math.isfinite(logprob) else _LOWEST


def chat_logprobs(tokenizer: Tokenizer, entries: Sequence[TokenLogprobs], top: int) -> dict[str, Any]:
    """The same as chat completions write them: `content`, an entry for each token with its bytes."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        raw = tokenizer.token_bytes(token_id)
        return {"token": raw.decode(errors="replace"), "logprob": finite(logprob), "bytes": list(raw)}

    return {
        "content": [
            {**entry(item.token_id, item.logprob), "top_logprobs": [entry(*best) for best in item.top[:top]]}
            for item in entries
        ]
    }
