r"""Documents with DOS line ends: the model reads them with its own, and what it writes gets the document's.

The model knows few files with `\r\n`, and does badly there: it often has nothing to say. What is normalised is the text
around a cursor, and plain text to be continued; a raw prompt only where it holds a FIM template, since it is otherwise
the model's business, byte by byte.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

import msgspec

from deployments.health import HealthReport
from deployments.protocol import Backend, Delta, GenerationRequest, ModelInfo
from model.text.context import RepositoryContext
from model.text.detokenizer import Detokenizer
from model.text.prompts import Infill, Plain, PromptForm, Raw
from model.text.tokenizer import Tokenizer

Prompts = list[str] | list[list[int]]
_Form = TypeVar("_Form", bound=PromptForm)

_BARE = re.compile(r"(?<!\r)\n")


def unix(text: str) -> str:
    return text.replace("\r\n", "\n")


def with_unix_lines(tokenizer: Tokenizer, prompts: Prompts, form: _Form) -> tuple[Prompts, _Form]:
    """The prompts and their form as the model reads them; what is not normalised, as it is."""
    texts = [unix(p) if isinstance(p, str) and _is_document(tokenizer, p, form) else p for p in prompts]
    if isinstance(form, Infill):
        form = replace(form, suffix=unix(form.suffix))
    if isinstance(form, Infill | Plain) and form.context is not None:
        form = replace(form, context=_unix_context(form.context))
    return texts, form  # type: ignore[return-value]


def dos_prompts(tokenizer: Tokenizer, prompts: Prompts, form: PromptForm) -> tuple[int, ...]:
    """Which of the prompts are of documents most of whose lines end so, by their numbers."""
    around = _line_ends(form.suffix)  # counted once: there may be many prompts
    return tuple(
        number
        for number, prompt in enumerate(prompts)
        if isinstance(prompt, str) and _mostly_dos(_line_ends(prompt), around) and _is_document(tokenizer, prompt, form)
    )


def _line_ends(text: str) -> tuple[int, int]:
    """How many lines end like DOS's, and how many there are."""
    return text.count("\r\n"), text.count("\n")


def _mostly_dos(*parts: tuple[int, int]) -> bool:
    return 2 * sum(dos for dos, _ in parts) > sum(lines for _, lines in parts)


def _is_document(tokenizer: Tokenizer, prompt: str, form: PromptForm) -> bool:
    return not isinstance(form, Raw) or ("\r\n" in prompt and tokenizer.parse_fim(prompt) is not None)


def _unix_context(context: RepositoryContext) -> RepositoryContext:
    return replace(context, files=tuple(replace(file, content=unix(file.content)) for file in context.files))


class DosText:
    """Gives a growing text DOS line ends; those that it has already stay."""

    def __init__(self) -> None:
        self._last = ""

    def push(self, text: str) -> str:
        if not text:
            return text
        written = _BARE.sub("\r\n", self._last + text)[len(self._last) :]
        self._last = text[-1] if text[-1] == "\r" else ""
        return written


class _Completion:
    """One completion of a document with DOS line ends."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool) -> None:
        self._text = DosText()
        # The text of tokens whose text is held back is told by them alone.
        self._detokenizer = Detokenizer(tokenizer, skip_special)
        self._length = 0
        self._last = ""
        self._added: list[int] = []

    def restore(self, delta: Delta, stops: dict[str, str]) -> Delta:
        changes: dict[str, object] = {"text": self._text.push(delta.text)}
        if delta.text_offsets is not None:
            self._note(self._detokenizer.push(delta.token_ids))
            changes["text_offsets"] = [at + bisect_left(self._added, at) for at in delta.text_offsets]
        if isinstance(delta.stop_reason, str):
            changes["stop_reason"] = stops.get(delta.stop_reason, delta.stop_reason)
        return msgspec.structs.replace(delta, **changes)

    def _note(self, text: str) -> None:
        seen = self._last + text
        self._added += [self._length - len(self._last) + found.start() for found in _BARE.finditer(seen)]
        self._length += len(text)
        self._last = "\r" if seen.endswith("\r") else ""


class DocumentLines:
    """A `Backend` whose completions have the line ends of their documents: `GenerationRequest.dos_prompts`."""

    def __init__(self, backend: Backend, tokenizer: Tokenizer) -> None:
        self._backend = backend
        self._tokenizer = tokenizer

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        request, stops = _with_stops(request)
        completions: dict[int, _Completion] = {}
        async with aclosing(self._backend.stream(request)) as batches:
            async for deltas in batches:
                yield [self._restored(request, completions, delta, stops) for delta in deltas]

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        request, stops = _with_stops(request)
        deltas = await self._backend.generate(request)
        return [self._restored(request, {}, delta, stops) for delta in deltas]

    async def health(self) -> HealthReport:
        return await self._backend.health()

    async def info(self) -> ModelInfo:
        return await self._backend.info()

    def _restored(
        self, request: GenerationRequest, completions: dict[int, _Completion], delta: Delta, stops: dict[str, str]
    ) -> Delta:
        if not request.is_dos(delta.index):
            return delta
        if delta.index not in completions:
            completions[delta.index] = _Completion(self._tokenizer, request.skip_special)
        return completions[delta.index].restore(delta, stops)


def _with_stops(request: GenerationRequest) -> tuple[GenerationRequest, dict[str, str]]:
    """The request whose stop strings end the model's text, and from each of them to what the client calls it."""
    if not request.dos_prompts:
        return request, {}
    named = {stop: stop for stop in request.stop}
    for stop in request.stop:
        named.setdefault(unix(stop), stop)
    return msgspec.structs.replace(request, stop=tuple(named)), named
