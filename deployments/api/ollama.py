"""Ollama: `POST /api/generate`, `POST /api/show`, `GET /api/tags` and `GET /api/version`.

Source: `docs/api.md` of ollama/ollama. Decisions: a model's name may have the tag `:latest`; without `suffix`, special
tokens written in `prompt` count as such, since editors send FIM templates with `raw`; a prompt that is too long is
cut; `repeat_penalty` is 1 where nothing is said. `system`, `template`, `context`, `format`, `images` and `keep_alive`
are ignored.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, Field, model_validator
from starlette.responses import Response

from deployments.api.common.code_fields import ANYBODY, Caller, CallerOf, CodeFields
from deployments.api.common.context import ApiContext
from deployments.api.common.dialect import Dialect
from deployments.api.common.ended_by import EndedBy
from deployments.api.common.examples import SERVED_MODEL, example
from deployments.api.common.fitting import fit_prompts
from deployments.api.common.given_up import check_not_given_up
from deployments.api.common.json_body import JsonRoute
from deployments.api.common.rendering import Rendering
from deployments.api.common.sampling import DialectModel
from deployments.api.common.streaming import JSON_LINES_CONTENT, JsonLineStream, json_line
from deployments.api.openai.schemas import ending
from deployments.api.parameters.candidates import TOP_K, TOP_P
from deployments.api.parameters.length import MAX_TOKENS
from deployments.api.parameters.penalties import REPETITION_PENALTY
from deployments.api.parameters.seed import SEED
from deployments.api.parameters.temperature import TEMPERATURE
from deployments.errors import ModelNotFoundError, ServeError, shown
from deployments.protocol import Delta, GenerationRequest, ModelInfo
from model.text.prompts import Raw
from monitoring.version import package_version

_TAG = ":latest"


class OllamaOptions(CodeFields):
    passed_over = frozenset({"num_ctx"})

    num_predict: int = MAX_TOKENS.field(
        default=-1, ge=-2, description="Most tokens to generate; 0 or less: what the window holds."
    )
    temperature: float = TEMPERATURE.field(default=0.8, le=100, description="0 always takes the most likely token.")
    top_k: int = TOP_K.field(default=40)
    top_p: float = TOP_P.field(default=0.9)
    repetition_penalty: float = REPETITION_PENALTY.field(alias="repeat_penalty")
    seed: int = SEED.field(default=-1, ge=-1, description="-1: another one each time.")


class OllamaRequest(DialectModel):
    """Unknown fields are ignored; null stands for a field's default."""

    passed_over = frozenset({"keep_alive"})
    model_config = example(
        "Fill the gap at a cursor",
        model=SERVED_MODEL,
        prompt="def mean(values):\n    return sum(values) / len(",
        suffix="\n\nprint(mean([1, 2, 3]))\n",
        options={"num_predict": 16, "temperature": 0},
        stream=False,
    )

    model: str = Field(description="Id of the model, with or without `:latest`.")
    prompt: str = Field(default="", description="The prompt, or the text before the cursor. Empty: answer at once.")
    suffix: str = Field(
        default="",
        description="Text after the cursor; both sides are then plain text, where it is empty too, unless `raw`.",
    )
    raw: bool = Field(default=False, description="The prompt is whole as it is: an empty `suffix` asks for nothing.")
    options: OllamaOptions = Field(default_factory=OllamaOptions, description="How to generate.")
    stream: bool = Field(default=True, description="Answer with a line of JSON for each part.")

    @property
    def fills(self) -> bool:
        """Some clients send every field, those with nothing in them too, beside a template of their own."""
        return bool(self.suffix) or ("suffix" in self.model_fields_set and not self.raw)


class OllamaGeneration(BaseModel):
    model: str = Field(description="The model as the request names it.")
    created_at: str = Field(description="Time of the answer, ISO 8601.")
    response: str = Field(description="The completion; in a stream, the part that is new.")
    done: bool = Field(description="Whether it has ended.")
    done_reason: Literal["stop", "length", "load"] | None = Field(default=None, description="Why it ended.")
    ended_by: EndedBy = None
    total_duration: int | None = Field(default=None, description="Nanoseconds from the request to its end.")
    load_duration: int | None = Field(default=None, description="Always 0: the model is loaded.")
    prompt_eval_count: int | None = Field(default=None, description="Tokens of the prompt.")
    prompt_eval_duration: int | None = Field(default=None, description="Nanoseconds until the first token.")
    eval_count: int | None = Field(default=None, description="Tokens generated.")
    eval_duration: int | None = Field(default=None, description="Nanoseconds from the first token to the last.")


class ShowRequest(DialectModel):
    model_config = example("Ask for the served model", model=SERVED_MODEL)

    model: str | None = Field(default=None, description="Id of the model.")
    name: str | None = Field(default=None, description="Older name of the same.")

    @model_validator(mode="after")
    def _one_is_there(self) -> ShowRequest:
        if not (self.model or self.name):
            raise ValueError("model is required")
        return self


class ModelDetails(BaseModel):
    parent_model: str = Field(default="", description="None.")
    format: str = Field(default="safetensors", description="Of the weights.")
    family: str = Field(default="starcoder", description="Of the network.")
    families: list[str] = Field(default=["starcoder"], description="The same.")
    parameter_size: str = Field(default="", description="Not known here.")
    quantization_level: str = Field(description="Type of the weights.")


class Shown(BaseModel):
    modelfile: str = Field(description="A sketch of one.")
    parameters: str = Field(default="", description="None are set.")
    template: str = Field(description="How a prompt is made; `.Suffix` in it tells editors that it can fill gaps.")
    details: ModelDetails = Field(description="What the model is.")
    model_info: dict[str, Any] = Field(description="Architecture and window.")
    capabilities: list[str] = Field(description="`completion`, and `insert` where there are FIM tokens.")
    modified_at: str = Field(description="When serving began, ISO 8601.")


class TagEntry(BaseModel):
    name: str = Field(description="What requests name in `model`.")
    model: str = Field(description="The same.")
    modified_at: str = Field(description="When serving began, ISO 8601.")
    size: int = Field(description="Bytes of the weights.")
    digest: str = Field(default="", description="Not known here.")
    details: ModelDetails = Field(description="What the model is.")


class Tags(BaseModel):
    models: list[TagEntry] = Field(description="The models; this server has one.")


class OllamaVersion(BaseModel):
    version: str = Field(description="Version of StarCoder Serve.")


class OllamaError(BaseModel):
    error: str = Field(description="What is wrong.")


def ollama_error(error: ServeError) -> tuple[int, Any]:
    return error.status, {"error": error.message}


DIALECT = Dialect("ollama", "Ollama", error_shape=ollama_error)


async def named_model(api: ApiContext, name: str) -> ModelInfo:
    """The served model, if this is its name; raise ModelNotFoundError in Ollama's words otherwise."""
    try:
        return await api.served_model(name.removesuffix(_TAG))
    except ModelNotFoundError:
        model = await api.model()
        if name == model.id:  # whose id may end in the tag
            return model
        raise ModelNotFoundError(f"model {shown(name)} not found; this server has '{model.id}'") from None


async def to_generation_request(body: OllamaRequest, api: ApiContext, caller: Caller = ANYBODY) -> GenerationRequest:
    """Translate; raise InvalidRequestError or ModelNotFoundError."""
    options, model = body.options, await named_model(api, body.model)
    if body.fills and "completion_mode" not in options.model_fields_set:
        options = options.model_copy(update={"completion_mode": "auto"})  # only editors send a suffix
    form = api.gap(body.suffix) if body.fills else Raw()
    wanted = options.num_predict if options.num_predict > 0 else None
    fitted = await fit_prompts(api, model, [body.prompt], Rendering(form, truncate=-1), wanted)
    sampling = options.model_copy(update={"seed": None}) if options.seed < 0 else options
    return GenerationRequest(
        request_id=uuid.uuid4().hex,
        prompts=fitted.prompts,
        params=sampling.to_params(max_tokens=fitted.max_tokens, limits=api.limits, vocab_size=api.tokenizer.vocab_size),
        stop=options.stop,
        **options.options(api.tokenizer, [body.prompt], form, caller),
    )


@dataclass
class OllamaWriter:
    """Turns the deltas of one request into Ollama's objects.

    model: as the request names it. started_ns: when the request came, on the monotonic clock.
    """

    request: GenerationRequest
    model: str
    started_ns: int

    def __post_init__(self) -> None:
        self.first_ns: int | None = None
        self.generated = 0

    def to_response(self, delta: Delta) -> dict[str, Any]:
        """A part of the answer; with the statistics where it is the last."""
        now = time.monotonic_ns()
        self.generated += len(delta.token_ids)
        if delta.finish_reason is None:
            self.first_ns = self.first_ns or now
            return {**self.head(), "response": delta.text, "done": False}
        check_not_given_up(delta)
        if self.first_ns is None:  # all of it came at once
            self.first_ns = min(self.started_ns + round(delta.first_token_seconds * 1e9), now)
        prompt_ns = self.first_ns - self.started_ns
        return {
            **self.head(),
            "response": delta.text,
            "done": True,
            "done_reason": delta.finish_reason,
            **ending(delta),
            "total_duration": now - self.started_ns,
            "load_duration": 0,
            "prompt_eval_count": len(self.request.prompts[0]),
            "prompt_eval_duration": prompt_ns,
            "eval_count": self.generated,
            "eval_duration": now - self.started_ns - prompt_ns,
        }

    def head(self) -> dict[str, Any]:
        return {"model": self.model, "created_at": datetime.now(UTC).isoformat()}

    async def to_lines(self, api: ApiContext) -> AsyncGenerator[bytes, None]:
        async with aclosing(api.backend.stream(self.request)) as updates:
            async for (delta,) in updates:
                part = self.to_response(delta)
                if part["response"] or part["done"]:
                    yield json_line(part)


def fim_template(api: ApiContext) -> str:
    """Go's template language, as a Modelfile has it."""
    fim = api.tokenizer.fim
    if fim is None:
        return "{{ .Prompt }}"
    gap = f"{fim.prefix_name}{{{{ .Prompt }}}}{fim.suffix_name}{{{{ .Suffix }}}}{fim.middle_name}"
    return f"{{{{- if .Suffix }}}}{gap}{{{{- else }}}}{{{{ .Prompt }}}}{{{{- end }}}}"


def _served_since(model: ModelInfo) -> str:
    return datetime.fromtimestamp(model.created, UTC).isoformat()


_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": OllamaError, "description": "The request cannot be served as it is."},
    429: {"model": OllamaError, "description": "The queue is full; `Retry-After` says when to try again."},
    500: {"model": OllamaError, "description": "The server failed."},
    503: {"model": OllamaError, "description": "The engine is starting, draining or dead."},
}


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(route_class=JsonRoute.of(DIALECT), tags=[DIALECT.title], responses=_ERRORS)

    @router.post(
        "/api/generate",
        response_model=OllamaGeneration,
        responses={200: {"description": "The completion, or its parts line by line.", "content": JSON_LINES_CONTENT}},
        summary="Continue a text or fill a gap, as Ollama does",
    )
    async def generate(body: OllamaRequest, caller: CallerOf) -> Response:
        if not (body.prompt or body.suffix):
            await named_model(api, body.model)
            head = {"model": body.model, "created_at": datetime.now(UTC).isoformat()}
            loaded = {**head, "response": "", "done": True, "done_reason": "load"}
            return Response(msgspec.json.encode(loaded), media_type="application/json")
        started_ns = time.monotonic_ns()
        request = await to_generation_request(body, api, caller)
        writer = OllamaWriter(request, body.model, started_ns)
        if body.stream:
            return await JsonLineStream.open(writer.to_lines(api))
        (delta,) = await api.backend.generate(request)
        return Response(msgspec.json.encode(writer.to_response(delta)), media_type="application/json")

    @router.post("/api/show", summary="What Ollama says of a model", response_description="The model.")
    async def show(body: ShowRequest) -> Shown:
        model = await named_model(api, body.model or body.name or "")
        template = fim_template(api)
        return Shown(
            modelfile=f'FROM {model.id}\nTEMPLATE """{template}"""\n',
            template=template,
            details=ModelDetails(quantization_level=model.dtype),
            model_info={"general.architecture": "starcoder", "starcoder.context_length": model.max_model_len},
            capabilities=["completion", "insert"] if api.tokenizer.fim else ["completion"],
            modified_at=_served_since(model),
        )

    @router.get("/api/tags", summary="List the served models, as Ollama does", response_description="The models.")
    async def tags() -> Tags:
        model = await api.model()
        name = model.id + _TAG
        entry = TagEntry(
            name=name,
            model=name,
            modified_at=_served_since(model),
            size=sum(model.parameter_bytes),
            details=ModelDetails(quantization_level=model.dtype),
        )
        return Tags(models=[entry])

    @router.get("/api/version", summary="Version of the server, for Ollama's clients", response_description="It.")
    async def version() -> OllamaVersion:
        return OllamaVersion(version=package_version())

    return router
