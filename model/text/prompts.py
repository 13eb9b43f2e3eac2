"""From a prompt to the token ids that fit a window: the one way in for everybody who asks for a completion.

What does not fit is cut (model/text/truncation.py says where): context files first, then the text that is farthest
from the cursor. A cut of text never falls inside a character, unless nothing else of a raw prompt would be left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from model.text.context import RepositoryContext
from model.text.excerpts import CHARS_PER_TOKEN, character_end, character_start, encode_end, encode_start, settled
from model.text.fim import FimMode, FimPrompt, FimTokens, UnsupportedError
from model.text.tokenizer import Tokenizer
from model.text.truncation import (
    STRIDES_PER_WINDOW,
    Window,
    anchor_stride,
    demand,
    left_cut,
    round_up,
    split_window,
)

_MARKERS = 3
"""Tokens of a fill-in-the-middle template."""


class PromptTooLongError(ValueError):
    """A prompt that is not to be cut exceeds its window. length: how many tokens it has."""

    def __init__(self, length: int) -> None:
        super().__init__(f"the prompt has {length} tokens, more than its window")
        self.length = length


@dataclass(frozen=True)
class Raw:
    """Text in which the names of special tokens stand for them, as editors that template expect.

    Of a FIM template in it only the markers and the metadata at the start of the prefix are special: the two sides
    of the cursor are plain text.
    """

    suffix: ClassVar[str] = ""
    context: ClassVar[None] = None
    length: ClassVar[int] = 0

    def encode(self, tokenizer: Tokenizer, text: str) -> list[int]:
        template = tokenizer.parse_fim(text)
        return tokenizer.encode_with_special(text) if template is None else _encode_template(tokenizer, template)

    def fit(self, tokenizer: Tokenizer, text: str, window: Window) -> list[int]:
        template = tokenizer.parse_fim(text)
        if template is None:
            return _fit_special(tokenizer, text, window)
        if len(text) <= window.max_tokens * CHARS_PER_TOKEN[-1]:
            ids = _encode_template(tokenizer, template)
            if len(ids) <= window.max_tokens:
                return ids
        return _fit_template(tokenizer, template, window)


@dataclass(frozen=True)
class Plain:
    """Plain text to be continued. context: what of its repository goes before it."""

    suffix: ClassVar[str] = ""
    context: RepositoryContext | None = None

    @property
    def length(self) -> int:
        return self.context.length if self.context else 0

    def encode(self, tokenizer: Tokenizer, text: str) -> list[int]:
        return tokenizer.encode(text)

    def fit(self, tokenizer: Tokenizer, text: str, window: Window) -> list[int]:
        header = self.context.header(tokenizer, window.max_tokens) if self.context else []
        budget = _budget(window, len(header), "prompt")
        sides = _fit_sides(tokenizer, text, "", window, budget, self.context)
        return sides.documents + header + sides.prefix


@dataclass(frozen=True)
class Infill:
    """Plain text before a cursor, with a gap to be filled between it and `suffix`, which is plain text too."""

    mode: FimMode
    suffix: str = ""
    context: RepositoryContext | None = None

    @property
    def length(self) -> int:
        return len(self.suffix) + (self.context.length if self.context else 0)

    def encode(self, tokenizer: Tokenizer, text: str) -> list[int]:
        return _markers(tokenizer).join(self.mode, tokenizer.encode(text), tokenizer.encode(self.suffix))

    def fit(self, tokenizer: Tokenizer, text: str, window: Window) -> list[int]:
        markers = _markers(tokenizer)
        header = self.context.header(tokenizer, window.max_tokens) if self.context else []
        budget = _budget(window, _MARKERS + len(header), "fill-in-the-middle prompt")
        sides = _fit_sides(tokenizer, text, self.suffix, window, budget, self.context)
        return sides.documents + markers.join(self.mode, header + sides.prefix, sides.suffix)


PromptForm = Raw | Plain | Infill
"""What the text of a prompt stands for. `encode` gives all of its ids, without context; `fit` cuts them to a window,
with as much context as there is room for. `length`: characters that go with every prompt."""


def render(tokenizer: Tokenizer, prompt: str | Sequence[int], form: PromptForm, window: Window) -> list[int]:
    """Token ids of a prompt, at most `window.max_tokens`; a prompt of ids has no form.

    Empty where the window cannot hold the last character of plain text. Where nothing is cut, context has to make do
    with the room that there is all the same.
    Raises PromptTooLongError where a prompt that is not to be cut does not fit, UnsupportedError where the vocabulary
    lacks the tokens, ValueError where the window is too short for the form's special tokens.
    """
    if not isinstance(prompt, str):
        return _fit_ids(prompt, window)
    if not window.cuts:
        ids = form.encode(tokenizer, prompt)
        _check_length(ids, window)
        if (
            form.context is None
            or len(ids) + len(form.context.header(tokenizer, window.max_tokens)) > window.max_tokens
        ):
            return ids
    return form.fit(tokenizer, prompt, window)


def _fit_ids(ids: Sequence[int], window: Window) -> list[int]:
    if not window.cuts:
        _check_length(ids, window)
    return list(ids[_anchored_start(ids, window) :])


def _fit_special(tokenizer: Tokenizer, text: str, window: Window) -> list[int]:
    limit = window.max_tokens * CHARS_PER_TOKEN[-1]
    end = text[left_cut(len(text), limit, max(1, limit // STRIDES_PER_WINDOW)) :]
    ids = tokenizer.encode_with_special(end)
    start = _anchored_start(ids, window)
    whole = character_start(tokenizer, ids, start)
    return ids[whole if whole < len(ids) else start :]  # a part of the last character is better than nothing


def _encode_template(tokenizer: Tokenizer, template: FimPrompt) -> list[int]:
    prefix = tokenizer.encode_with_special(template.header) + tokenizer.encode(template.prefix)
    ids = _markers(tokenizer).join(template.mode, prefix, tokenizer.encode(template.suffix))
    return tokenizer.encode_with_special(template.head) + ids + tokenizer.encode(template.started)


def _fit_template(tokenizer: Tokenizer, template: FimPrompt, window: Window) -> list[int]:
    """The template with its metadata and what its middle begins with; without the documents before it."""
    header, started = tokenizer.encode_with_special(template.header), tokenizer.encode(template.started)
    window = replace(window, max_tokens=window.max_tokens - len(header) - len(started))
    budget = _budget(window, _MARKERS, "fill-in-the-middle prompt")
    sides = _fit_sides(tokenizer, template.prefix, template.suffix, window, budget)
    return _markers(tokenizer).join(template.mode, header + sides.prefix, sides.suffix) + started


@dataclass(frozen=True)
class _Sides:
    """Ids of what is kept before and after a cursor, and of the documents for which there is room beside it."""

    documents: list[int]
    prefix: list[int]
    suffix: list[int]


def _fit_sides(
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    window: Window,
    budget: int,
    context: RepositoryContext | None = None,
) -> _Sides:
    """Share `budget` tokens of the window between two sides of plain text, and what they leave, among documents."""
    stride = anchor_stride(budget, window.block_size)
    if window.cuts:
        before, after = encode_end(tokenizer, prefix, budget), encode_start(tokenizer, suffix, budget)
    else:
        before, after = tokenizer.encode(prefix), tokenizer.encode(suffix)
    need = demand(len(before), settled(tokenizer, prefix, before), stride)
    split = split_window(len(before), len(after), budget, stride, window.suffix_share, need)
    room = budget - len(after) - round_up(need, stride)
    return _Sides(
        documents=context.documents(tokenizer, room, window.max_tokens) if context else [],
        prefix=before[character_start(tokenizer, before, split.prefix_start) :],
        suffix=after[: character_end(tokenizer, after, split.suffix_end)],
    )


def _anchored_start(ids: Sequence[int], window: Window) -> int:
    return left_cut(len(ids), window.max_tokens, anchor_stride(window.max_tokens, window.block_size))


def _budget(window: Window, taken: int, form: str) -> int:
    if window.max_tokens <= taken:
        raise ValueError(f"a window of {window.max_tokens} tokens has no room for a {form}")
    return window.max_tokens - taken


def _check_length(ids: Sequence[int], window: Window) -> None:
    if len(ids) > window.max_tokens:
        raise PromptTooLongError(len(ids))


def _markers(tokenizer: Tokenizer) -> FimTokens:
    if tokenizer.fim is None:
        raise UnsupportedError("this model has no fill-in-the-middle tokens: `suffix` cannot be used")
    return tokenizer.fim
