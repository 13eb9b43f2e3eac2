"""Fields that dialects share for completions that know code: when they end, and which session they belong to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, TypedDict

from fastapi import Depends, Header, Request
from pydantic import Field

from deployments.api.common.sampling import SamplingFields, refuse_if
from deployments.protocol import (
    PREFIX_CHARACTERS,
    SUFFIX_CHARACTERS,
    TYPED_CHARACTERS,
    CompletionMode,
    EditorSession,
    StopRules,
)
from deployments.stop_rules.languages import guess_language
from model.text.tokenizer import Tokenizer

MODE_DESCRIPTION = (
    "Where a completion of code ends: `line`: with its line; `block`: where the block closes; `auto`: what suits "
    "the cursor; `raw`: where the model ends it, and the text is the model's, byte by byte."
)


class CodeFields(SamplingFields):
    """A dialect of editors overrides the default of `completion_mode`."""

    completion_mode: CompletionMode = Field(default="raw", description=MODE_DESCRIPTION)
    language: str | None = Field(
        default=None, max_length=64, description="The editor's identifier of the language; left out: guessed."
    )
    filename: str | None = Field(
        default=None,
        max_length=4096,
        description="Path of the file being written. Tells the language and the document.",
    )
    trim_suffix: bool | None = Field(
        default=None,
        description="End where the text begins to repeat what follows the cursor, and leave the repetition out. Left "
        "out: so unless `completion_mode` is `raw`.",
    )
    stop_repetition: bool | None = Field(
        default=None, description="End where the text goes round in circles. Left out: as with `trim_suffix`."
    )
    min_logprob: float | None = Field(
        default=None,
        ge=-100,
        le=0,
        description="Drop lines of the completion from the first one whose tokens have a lower mean log-probability; "
        "where that is the first line, the completion is empty.",
    )
    max_time_ms: int | None = Field(
        default=None,
        ge=1,
        le=3_600_000,
        description="Answer with what there is after this time, counted from the request's arrival at the engine.",
    )
    session_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Names an editor's session, as the header `x-session-id` does: a newer request of the same session "
        "for the same file ends the older one, and continues its text where the user has typed what it predicted.",
    )

    @property
    def wants_rules(self) -> bool:
        return self.completion_mode != "raw" or bool(
            self.trim_suffix or self.stop_repetition or self.min_logprob is not None
        )

    def options(
        self,
        tokenizer: Tokenizer,
        prompts: list[str] | list[list[int]],
        suffix: str,
        caller: Caller,
        *,
        user: str | None = None,
        path: str | None = None,
        context: object = None,
    ) -> CodeOptions:
        """What the fields ask for; raise InvalidRequestError where they cannot be had.

        suffix: empty where the prompts may hold a FIM template of their own. path: the file, as the dialect names it;
        `filename` goes first. context: whatever else is in the prompt.
        """
        path = self.filename or path
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        refuse_if(
            self.wants_rules and len(texts) < len(prompts),
            "completion_mode",
            "completions that know code need the prompt as text, not ids",
        )
        refuse_if(
            bool(self.wants_rules and self.min_tokens and "completion_mode" in self.model_fields_set),
            "min_tokens",
            "cannot be combined with a completion that ends by rules",
        )
        places = [(text, suffix) if suffix else _around_the_cursor(tokenizer, text) for text in texts]
        rules = None
        if self.wants_rules and not self.min_tokens:
            known = self.completion_mode != "raw"
            rules = StopRules(
                mode=self.completion_mode,
                language=guess_language(
                    self.language, path, places[0][0][:PREFIX_CHARACTERS] + places[0][1][:SUFFIX_CHARACTERS]
                ),
                prefixes=tuple(prefix[-PREFIX_CHARACTERS:] for prefix, _ in places),
                suffixes=tuple(after[:SUFFIX_CHARACTERS] for _, after in places),
                trim_suffix=known if self.trim_suffix is None else self.trim_suffix,
                stop_repetition=known if self.stop_repetition is None else self.stop_repetition,
                special_ids=tuple(sorted(tokenizer.special_ids - {tokenizer.eos_id})) if known else (),
                min_logprob=self.min_logprob,
            )
        key = self._session_key(caller, user, path)
        session = None
        if key is not None:
            prefix, after = places[0] if places else ("", "")
            session = EditorSession(
                key=key,
                prefix=prefix[-TYPED_CHARACTERS:],
                prefix_length=len(prefix),
                surroundings=_digest(after, repr(context)),
            )
        return CodeOptions(rules=rules, session=session, max_time_ms=self.max_time_ms)

    def _session_key(self, caller: Caller, user: str | None, path: str | None) -> str | None:
        """One session of one caller in one file.

        `user` alone names nobody's editor: batches send a constant one. With a file it does.
        """
        name = self.session_id or caller.session
        if name is None and user is not None and path is not None:
            name = "user " + user
        return None if name is None else _digest(caller.credential, name, path or "")


class CodeOptions(TypedDict):
    """Fields of a `GenerationRequest`."""

    rules: StopRules | None
    session: EditorSession | None
    max_time_ms: int | None


@dataclass(frozen=True)
class Caller:
    """session: what the header `x-session-id` says. credential: keeps the sessions of different keys apart."""

    session: str | None = None
    credential: str = ""


ANYBODY = Caller()


def _caller(
    request: Request,
    x_session_id: Annotated[
        str | None, Header(min_length=1, max_length=256, description="Names an editor's session; see `session_id`.")
    ] = None,
) -> Caller:
    headers = request.headers
    given = [headers.get(name, "") for name in ("authorization", "x-api-key", "api-key")]
    return Caller(x_session_id, next(filter(None, given), ""))


CallerOf = Annotated[Caller, Depends(_caller)]
"""The caller of a route, as FastAPI fills it in."""


def _around_the_cursor(tokenizer: Tokenizer, prompt: str) -> tuple[str, str]:
    """Text before and after the cursor of a prompt that may be a FIM template of the editor's own."""
    fim = tokenizer.parse_fim(prompt)
    return (prompt, "") if fim is None else (fim.prefix + fim.started, fim.suffix)


def _digest(*parts: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
