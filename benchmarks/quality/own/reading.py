"""How many bits a model needs for the bytes of a text, by the log-probabilities of an echoed prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.quality.own.questions import Piece
from benchmarks.quality.own.record import Reading


class NoLogprobs(Exception):
    """The server does not say how likely the tokens of a prompt were."""


def body(piece: Piece, ours: bool) -> dict[str, Any]:
    """Ours runs a prompt and generates nothing; others may want to generate one token, which is not looked at."""
    return {"prompt": piece.text, "max_tokens": 0 if ours else 1, "echo": True, "logprobs": 1, "temperature": 0}


def reading(piece: Piece, answer: Mapping[str, Any]) -> Reading:
    """Of the tokens that begin in the scored part, and the bytes from the first of them on.

    The first token of a file is foreseen from nothing, and has no log-probability: it and its bytes are left out. A
    token that began in the context, and reaches into the scored part, is left out with its bytes, too.

    Raises NoLogprobs.
    """
    (choice,) = answer["choices"]
    told = choice.get("logprobs") or {}
    logprobs, offsets = told.get("token_logprobs") or [], told.get("text_offset") or []
    if not choice.get("text", "").startswith(piece.text) or not logprobs or len(logprobs) != len(offsets):
        raise NoLogprobs("the server does not echo a prompt with its log-probabilities")
    if offsets != sorted(offsets):
        raise NoLogprobs("the server does not say where the tokens of a prompt begin")
    scored = [
        (offset, logprob)
        for offset, logprob in zip(offsets, logprobs, strict=True)
        if piece.begin <= offset < len(piece.text) and logprob is not None
    ]
    if not scored:
        return Reading(piece.id, 0.0, 0, 0)
    bits = -math.fsum(logprob for _, logprob in scored) / math.log(2)
    return Reading(piece.id, bits, len(piece.text[scored[0][0] :].encode()), len(scored))
