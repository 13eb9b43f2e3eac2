"""Tabby: completions by `segments`, `POST /v1/events`, `GET /v1/health` and `GET /v1beta/server_setting`.

Source: `crates/tabby/src/services/completion.rs` and `routes/` of TabbyML/tabby. `completions_path` gives the
completions their route. Decisions: as there, 64 tokens at temperature 0.1; snippets and declarations become repository
context, as far as there is room; next-edit suggestions are refused; the clipboard and `debug_options` are ignored.
What people do with a completion is counted by language: a completion's id carries it, and how many lines it has, so
nothing is remembered. Editors of every dialect may tell it; what their team accepted is in its usage.
"""

from __future__ import annotations

import os
import platform
import re
import time
import uuid
from functools import cache
from itertools import chain
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from deployments.api.common.code_fields import ANYBODY, Caller, CodeFields, CompletionModeField
from deployments.api.common.context import ApiContext
from deployments.api.common.dialect import Dialect
from deployments.api.common.ended_by import EndedBy
from deployments.api.common.examples import example
from deployments.api.common.fitting import fit_prompts
from deployments.api.common.given_up import check_not_given_up
from deployments.api.common.json_body import JsonRoute
from deployments.api.common.rendering import Rendering
from deployments.api.common.sampling import DialectModel
from deployments.api.openai.schemas import ERROR_RESPONSES, ending
from deployments.api.parameters.bounds import INT32_MAX, UINT64_MAX
from deployments.api.parameters.seed import SEED
from deployments.api.parameters.temperature import TEMPERATURE
from deployments.errors import EngineUnavailableError
from deployments.protocol import GenerationRequest
from deployments.teams.principal import Principal, principal_of
from deployments.teams.records import Accepted
from model.text.context import ContextFile, RepositoryContext
from monitoring import IngressMetrics
from monitoring.labels import LANGUAGES

DIALECT = Dialect("tabby", "Tabby")

_MAX_TOKENS = 64
_TEMPERATURE = 0.1

MAX_LINES = 10_000

_ID = re.compile(r"cmpl-[0-9a-f]+\.(?P<language>[a-z0-9_+#-]+)\.(?P<lines>[0-9]{1,5})", re.ASCII)


class CodePiece(DialectModel):
    filepath: str = Field(max_length=4096, description="Where it comes from.")
    body: str = Field(description="The code.")


class Segments(DialectModel):
    prefix: str = Field(description="Text before the cursor.")
    suffix: str = Field(default="", description="Text after the cursor.")
    filepath: str | None = Field(default=None, max_length=4096, description="Path of the file being edited.")
    git_url: str | None = Field(default=None, max_length=4096, description="Address of its repository.")
    declarations: list[CodePiece] = Field(
        default_factory=list, max_length=1024, description="What the names around the cursor stand for."
    )
    relevant_snippets_from_changed_files: list[CodePiece] = Field(
        default_factory=list, max_length=1024, description="Code of files edited lately, the best first."
    )
    relevant_snippets_from_recently_opened_files: list[CodePiece] = Field(
        default_factory=list, max_length=1024, description="Code of files opened lately, the best first."
    )

    def to_context(self) -> RepositoryContext:
        pieces = chain(
            self.declarations,
            self.relevant_snippets_from_changed_files,
            self.relevant_snippets_from_recently_opened_files,
        )
        files = tuple(ContextFile(piece.filepath, piece.body) for piece in pieces)
        return RepositoryContext(_repository(self.git_url or ""), self.filepath, files)


class SegmentsRequest(CodeFields):
    """Tabby's completion request. Unknown fields are ignored; null stands for a field's default."""

    model_config = example(
        "Fill the gap as Tabby's clients ask",
        language="python",
        segments={
            "prefix": "def mean(values):\n    return sum(values) / len(",
            "suffix": "\n\nprint(mean([1, 2, 3]))\n",
            "filepath": "mean.py",
        },
        temperature=0,
    )

    language: str = Field(default="other", max_length=64, description="The editor's identifier of the language.")
    segments: Segments = Field(description="What is around the cursor. Plain text always.")
    temperature: float = TEMPERATURE.field(default=_TEMPERATURE)
    seed: int | None = SEED.field(ge=0, le=UINT64_MAX)
    completion_mode: CompletionModeField = "auto"
    mode: Literal["standard"] = Field(default="standard", description="Next-edit suggestions are not offered.")
    user: str | None = Field(default=None, max_length=1024, description="Your name for your end user.")


class SegmentsChoice(BaseModel):
    index: int = Field(description="Always 0.")
    text: str = Field(description="The completion.")
    ended_by: EndedBy = None


class SegmentsCompletion(BaseModel):
    """Tabby's completion response."""

    id: str = Field(description="Unique to the request; `/v1/events` names it.")
    choices: list[SegmentsChoice] = Field(description="The completion.")
    mode: Literal["standard"] = Field(description="As in the request.")


class EventRequest(DialectModel):
    passed_over = frozenset({"elapsed", "select_kind", "view_id"})
    model_config = example("Tell that a completion was taken", type="select", completion_id="cmpl-1", choice_index=0)

    type: Literal["view", "select", "dismiss"] = Field(description="What somebody did with a completion.")
    completion_id: str = Field(max_length=256, description="Id of the completion, in any dialect.")
    choice_index: int = Field(default=0, ge=0, le=INT32_MAX, description="Number of the choice.")
    lines: int | None = Field(
        default=None,
        ge=1,
        le=MAX_LINES,
        description="Lines that were taken; as the id says if not given, else one.",
    )


class LocalModel(BaseModel):
    model_id: str = Field(description="Id of the model.")
    device: str = Field(description="Not known at the ingress.")


class CompletionModel(BaseModel):
    local: LocalModel = Field(description="The served model.")


class HealthModels(BaseModel):
    completion: CompletionModel = Field(description="What completes code.")


class TabbyVersion(BaseModel):
    build_date: str = Field(default="", description="Not known.")
    build_timestamp: str = Field(default="", description="Not known.")
    git_sha: str = Field(default="", description="Not known.")
    # Agents take the first number in it for Tabby's version, and ask servers before 0.9 for no settings.
    git_describe: Literal["starcoder-serve"] = Field(default="starcoder-serve", description="Name of the server.")


class TabbyHealth(BaseModel):
    model: str = Field(description="Id of the served model.")
    device: str = Field(default="unknown", description="Not known at the ingress.")
    cuda_devices: list[str] = Field(default=[], description="Not known at the ingress.")
    models: HealthModels = Field(description="The models by what they do.")
    arch: str = Field(description="Architecture of the ingress's machine.")
    cpu_info: str = Field(description="Its processor.")
    cpu_count: int = Field(description="Its processors.")
    version: TabbyVersion = Field(description="Version of the server.")


class ServerSetting(BaseModel):
    disable_client_side_telemetry: bool = Field(description="Always true: nothing is sent elsewhere.")


async def to_generation_request(body: SegmentsRequest, api: ApiContext, caller: Caller = ANYBODY) -> GenerationRequest:
    """Translate; raise InvalidRequestError."""
    segments = body.segments
    form = api.gap(segments.suffix, segments.to_context())
    fitted = await fit_prompts(api, await api.model(), [segments.prefix], Rendering(form, truncate=-1), _MAX_TOKENS)
    return GenerationRequest(
        request_id=uuid.uuid4().hex,
        prompts=fitted.prompts,
        params=body.to_params(max_tokens=fitted.max_tokens, limits=api.limits, vocab_size=api.tokenizer.vocab_size),
        stop=body.stop,
        user=body.user,
        **body.options(
            api.tokenizer,
            [segments.prefix],
            form,
            caller,
            user=body.user,
            path=segments.filepath,
        ),
    )


def _repository(url: str) -> str | None:
    """`owner/name` at the end of an address, if it has one."""
    rest, _, name = url.rstrip("/").rpartition("/")
    owner = rest.rpartition("/")[2].rpartition(":")[2]
    name = name.removesuffix(".git") or name
    return f"{owner}/{name}" if owner and name and ":" not in name else None


async def answer(body: SegmentsRequest, api: ApiContext, caller: Caller = ANYBODY) -> Response:
    """One `SegmentsCompletion`."""
    request = await to_generation_request(body, api, caller)
    (delta,) = await api.backend.generate(request)
    check_not_given_up(delta)
    whole = {
        "id": completion_id(request.request_id, body.language, delta.text),
        "choices": [{"index": 0, "text": delta.text, **ending(delta)}],
        "mode": body.mode,
    }
    return Response(msgspec.json.encode(whole), media_type="application/json")


def completion_id(request_id: str, language: str, text: str) -> str:
    lines = min(len(text.strip("\n").split("\n")), MAX_LINES)
    return f"cmpl-{request_id}.{language if language in LANGUAGES else 'other'}.{lines}"


def language_of(completion_id: str) -> str:
    """The language in an id made by `completion_id`; what other ids say is nobody's business: `other`."""
    found = _ID.fullmatch(completion_id)
    return found["language"] if found is not None and found["language"] in LANGUAGES else "other"


def accepted_by(principal: Principal, event: EventRequest, kind: str, model: str) -> Accepted | None:
    """For the usage of their team; None where nothing was taken, or nobody pays."""
    if principal.team is None or event.type != "select":
        return None
    ours = _ID.fullmatch(event.completion_id)
    told = event.lines or (int(ours["lines"]) if ours is not None else 1)
    return Accepted(
        team_id=principal.team.id,
        key_id=None if principal.key is None else principal.key.id,
        model=model,
        dialect=DIALECT.name if ours is not None else "other",
        at=time.time(),
        lines=1 if kind == "select_line" else min(told, MAX_LINES),
        user=principal.user,
    )


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(route_class=JsonRoute.of(DIALECT), tags=[DIALECT.title], responses=ERROR_RESPONSES)

    @cache
    def metrics(model: str) -> IngressMetrics:
        return IngressMetrics(model)

    @router.post(
        "/v1/events",
        response_class=Response,
        responses={200: {"description": "It was counted.", "content": {}}},
        summary="Count what somebody did with a completion, as Tabby does",
    )
    async def event(
        request: Request,
        body: EventRequest,
        select_kind: Annotated[str | None, Query(description="`line`: only its first line was taken.")] = None,
    ) -> Response:
        kind = "select_line" if (body.type, select_kind) == ("select", "line") else body.type
        model = await api.model()
        metrics(model.id).completion_event(kind, language_of(body.completion_id))
        principal = principal_of(request.scope)
        if api.accepted is not None and principal is not None:
            accepted = accepted_by(principal, body, kind, model.id)
            if accepted is not None:
                api.accepted(accepted)
        return Response(status_code=200)

    @router.get("/v1/health", summary="What Tabby says of itself", response_description="The model and the machine.")
    async def health() -> TabbyHealth:
        report = await api.backend.health()
        if not report.healthy:
            raise EngineUnavailableError(report.reason or "The engine is not healthy.", retry_after=5.0)
        model = await api.model()
        local = LocalModel(model_id=model.id, device="unknown")
        return TabbyHealth(
            model=model.id,
            models=HealthModels(completion=CompletionModel(local=local)),
            arch=platform.machine(),
            cpu_info=platform.processor() or "unknown",
            cpu_count=os.cpu_count() or 1,
            version=TabbyVersion(),
        )

    @router.get("/v1beta/server_setting", summary="What Tabby's clients are told", response_description="The settings.")
    async def server_setting() -> ServerSetting:
        return ServerSetting(disable_client_side_telemetry=True)

    return router
