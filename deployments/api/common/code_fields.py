"""Fields that dialects share for completions that know code: when they end, and which session they belong to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypedDict

import msgspec
from fastapi import Depends, Header, Request
from pydantic import Field

from deployments.api.common.line_ends import dos_prompts, with_unix_lines
from deployments.api.common.sampling import SamplingFields
from deployments.api.parameters.bounds import refuse_if
from deployments.api.parameters.length import MIN_TOKENS
from deployments.protocol import (
    PREFIX_CHARACTERS,
    SUFFIX_CHARACTERS,
    TYPED_CHARACTERS,
    CompletionMode,
    EditorSession,
    StopRules,
)
from deployments.request_field import with_fields
from deployments.stop_rules import max_time, superseded
from deployments.stop_rules.ask import ask, settings
from deployments.stop_rules.languages import guess_language
from deployments.stop_rules.registry import stop_rules
from deployments.teams.principal import principal_of
from model.text.prompts import Infill, PromptForm
from model.text.tokenizer import Tokenizer

CompletionModeField = Annotated[
    CompletionMode,
    Field(
        description="Where a completion of code ends: `line`: with its line; `block`: where the block closes; `auto`: "
        "what suits the cursor; `raw`: where the model ends it, and the text is the model's, byte by byte."
    ),
]

if TYPE_CHECKING:
    _RuleFields = SamplingFields
else:
    _RuleFields = with_fields(
        SamplingFields, "_RuleFields", [rule.field for rule in stop_rules().values() if rule.field]
    )


class CodeFields(_RuleFields):
    """The stop rules declare theirs. A dialect of editors overrides the default of `completion_mode`."""

    completion_mode: CompletionModeField = "raw"
    language: str | None = Field(
        default=None, max_length=64, description="The editor's identifier of the language; left out: guessed."
    )
    filename: str | None = Field(
        default=None,
        max_length=4096,
        description="Path of the file being written. Tells the language and the document.",
    )

    def options(
        self,
        tokenizer: Tokenizer,
        prompts: list[str] | list[list[int]],
        form: PromptForm,
        caller: Caller,
        *,
        user: str | None = None,
        path: str | None = None,
    ) -> CodeOptions:
        """What the fields ask for; raise InvalidRequestError where they cannot be had.

        prompts, form: as they are rendered. path: the file, as the dialect names it; `filename` goes first.
        """
        path = self.filename or path
        dos = dos_prompts(tokenizer, prompts, form)
        prompts, form = with_unix_lines(tokenizer, prompts, form)
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        filled = isinstance(form, Infill)
        places = [(text, form.suffix) if filled else _around_the_cursor(tokenizer, text) for text in texts]
        rules = self._rules(tokenizer, places, path, all_text=len(texts) == len(prompts))
        key = self._session_key(caller, user, path)
        session = None
        if key is not None:
            prefix, after = places[0] if places else ("", "")
            untold = [] if places else prompts[0]  # of ids nobody can tell what is typed: they have to be the same
            session = EditorSession(
                key=key,
                prefix=prefix[-TYPED_CHARACTERS:],
                prefix_length=len(prefix),
                surroundings=_digest(after, msgspec.msgpack.encode((form, dos, untold))),
            )
        return CodeOptions(
            rules=rules,
            session=session,
            max_time_ms=max_time.FIELD.of(self),
            dos_prompts=dos,
            skip_special=self.skip_special_tokens,
            special_tokens=not self.skip_special_tokens,
        )

    def _rules(
        self, tokenizer: Tokenizer, places: list[tuple[str, str]], path: str | None, all_text: bool
    ) -> StopRules | None:
        mode = self.completion_mode
        wanted = settings(mode, {rule.name: rule.field.of(self) for rule in stop_rules().values() if rule.field})
        if mode == "raw" and not wanted:
            return None
        refuse_if(not all_text, "completion_mode", "completions that know code need the prompt as text, not ids")
        if MIN_TOKENS.of(self):
            named = "completion_mode" in self.model_fields_set
            refuse_if(named, "min_tokens", "cannot be combined with a completion that ends by rules")
            return None
        prefix, suffix = places[0]
        seen = prefix[:PREFIX_CHARACTERS] + suffix[:SUFFIX_CHARACTERS]
        return ask(
            mode,
            wanted,
            language=guess_language(self.language, path, seen),
            prefixes=tuple(prefix[-PREFIX_CHARACTERS:] for prefix, _ in places),
            suffixes=tuple(after[:SUFFIX_CHARACTERS] for _, after in places),
        )

    def _session_key(self, caller: Caller, user: str | None, path: str | None) -> str | None:
        """One session of one caller in one file.

        `user` alone names nobody's editor: batches send a constant one. With a file it does.
        """
        name = superseded.FIELD.of(self) or caller.session
        if name is None and user is not None and path is not None:
            name = "user " + user
        return None if name is None else _digest(caller.name, name, path or "")


class CodeOptions(TypedDict):
    """Fields of a `GenerationRequest`."""

    rules: StopRules | None
    session: EditorSession | None
    max_time_ms: int | None
    dos_prompts: tuple[int, ...]
    skip_special: bool
    special_tokens: bool


@dataclass(frozen=True)
class Caller:
    """session: what the header `x-session-id` says. name: keeps the sessions of different keys and people apart."""

    session: str | None = None
    name: str = ""


ANYBODY = Caller()


def _caller(
    request: Request,
    x_session_id: Annotated[
        str | None, Header(min_length=1, max_length=256, description="Names an editor's session; see `session_id`.")
    ] = None,
) -> Caller:
    principal = principal_of(request.scope)
    if principal is not None:
        team = "" if principal.team is None else principal.team.id
        return Caller(x_session_id, f"{principal.actor} {team}")
    given = [request.headers.get(name, "") for name in ("authorization", "x-api-key", "api-key")]
    return Caller(x_session_id, next(filter(None, given), ""))


CallerOf = Annotated[Caller, Depends(_caller)]
"""The caller of a route, as FastAPI fills it in."""


def _around_the_cursor(tokenizer: Tokenizer, prompt: str) -> tuple[str, str]:
    """Text before and after the cursor of a prompt that may be a FIM template of the editor's own."""
    fim = tokenizer.parse_fim(prompt)
    return (prompt, "") if fim is None else (fim.prefix + fim.started, fim.suffix)


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
