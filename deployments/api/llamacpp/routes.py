"""llama.cpp's server: `POST /infill` and `POST /completion`.

Source: `tools/server/README.md` of ggml-org/llama.cpp; what editors send and read: `autoload/llama.vim` of
ggml-org/llama.vim. Decisions: a prompt that is too long is cut; what stands before the cursor in its own line
(`prompt` of `/infill`) ends the prefix; `repeat_penalty` is 1 and `min_p` 0 where nothing is said, since penalties
spoil code; sampler chains, grammars, slots and LoRA are ignored. As there, a stream ends without `[DONE]`.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema
from starlette.responses import Response

from deployments.api.common.code_fields import ANYBODY, Caller, CallerOf, CodeFields, CompletionModeField
from deployments.api.common.context import ApiContext
from deployments.api.common.dialect import Dialect
from deployments.api.common.ended_by import EndedBy
from deployments.api.common.examples import example
from deployments.api.common.fitting import fit_prompts
from deployments.api.common.json_body import JsonRoute
from deployments.api.common.off_loop import is_long, off_loop
from deployments.api.common.rendering import PromptField, Rendering
from deployments.api.common.sampling import DialectModel
from deployments.api.common.streaming import EVENT_STREAM_CONTENT, EventStream
from deployments.api.llamacpp.self_stops import SelfStops
from deployments.api.llamacpp.writer import LlamaWriter
from deployments.api.parameters.bounds import INT32_MAX
from deployments.api.parameters.candidates import TOP_K, TOP_P
from deployments.api.parameters.length import MAX_TOKENS
from deployments.api.parameters.logprobs import LOGPROBS
from deployments.api.parameters.penalties import LOGIT_BIAS, REPETITION_PENALTY, check_bias_count
from deployments.api.parameters.seed import SEED
from deployments.api.parameters.temperature import TEMPERATURE
from deployments.errors import ServeError
from deployments.http import request_record
from deployments.protocol import Delta, GenerationRequest
from model.text.context import ContextFile, RepositoryContext
from model.text.prompts import PromptForm, Raw


def _bias_pairs(value: Any) -> Any:
    """`[[15043, 1.0], [15044, false]]` or OpenAI's object; `false` bans a token."""
    if isinstance(value, dict):
        value = list(value.items())
    if not isinstance(value, list):
        raise ValueError("must be a list of pairs, or an object")
    check_bias_count(len(value))
    biases: dict[int, float] = {}
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not str(pair[0]).isascii():
            raise ValueError("must hold pairs of a token id and a bias")
        key, bias = str(pair[0]), -100.0 if pair[1] is False else pair[1]
        if not key.isdigit() or len(key) > 10:
            raise ValueError("must name tokens by their ids")
        if isinstance(bias, bool) or not isinstance(bias, int | float):
            raise ValueError(f"the bias of token {key} must be a number or false")
        biases[int(key)] = min(max(float(bias), -100.0), 100.0)
    return biases


_PAIRS_SCHEMA = {"anyOf": [{"type": "array", "items": {"type": "array"}}, {"type": "object"}]}


class LlamaSampling(CodeFields):
    """Options of both routes. Unknown fields are ignored; null stands for a field's default."""

    passed_over = frozenset({"cache_prompt", "id_slot", "model", "samplers", "t_max_prompt_ms"})

    n_predict: int = MAX_TOKENS.field(
        default=-1,
        ge=-2,
        description="Most tokens to generate; -1: what the window holds. 0 reads the prompt into the cache only.",
    )
    temperature: float = TEMPERATURE.field(
        default=0.8, ge=-1, le=100, description="0 or less: take the most likely token."
    )
    top_k: int = TOP_K.field(default=40)
    top_p: float = TOP_P.field(default=0.95)
    repetition_penalty: float = REPETITION_PENALTY.field(alias="repeat_penalty")
    seed: int = SEED.field(default=-1, ge=-1, description="-1: another one each time.")
    logit_bias: Annotated[dict[int, float], BeforeValidator(_bias_pairs), WithJsonSchema(_PAIRS_SCHEMA)] = (
        LOGIT_BIAS.field(description="Pairs of a token id and what to add to its logit; `false` bans it.")
    )
    n_probs: int = LOGPROBS.field(default=0)
    n_cmpl: int = Field(default=1, ge=1, le=INT32_MAX, description="Completions of each prompt; more: an array.")
    n_indent: int = Field(
        default=0, ge=0, le=INT32_MAX, description="End before a line that is indented less than this, after the first."
    )
    t_max_predict_ms: int = Field(
        default=0,
        ge=0,
        le=INT32_MAX,
        description="End when generating has taken so long and a line has ended; 0: no limit.",
    )
    return_tokens: bool = Field(default=False, description="Report the generated token ids.")
    timings_per_token: bool = Field(default=False, description="Report timings in each event of a stream.")
    response_fields: list[str] = Field(
        default_factory=list, max_length=256, description="Answer with these fields only; `a/b` takes `b` out of `a`."
    )
    stream: bool = Field(default=False, description="Answer with server-sent events as tokens come.")


class LlamaCompletionRequest(LlamaSampling):
    model_config = example(
        "Continue a prompt", prompt="import logging\n\nlogger = logging.", stop=["\n"], n_predict=16, temperature=0
    )

    prompt: PromptField = Field(
        description="Text, several texts, token ids, or several lists of ids; several: an array answers. Special "
        "tokens written in a text count as such."
    )


class InfillFile(DialectModel):
    filename: str = Field(default="", max_length=4096, description="Path of the file.")
    text: str = Field(description="A part of it.")


class InfillRequest(LlamaSampling):
    model_config = example(
        "Fill the gap at a cursor",
        input_prefix="def mean(values):\n",
        prompt="    return sum(values) / len(",
        input_suffix="\n\nprint(mean([1, 2, 3]))\n",
        n_predict=16,
        temperature=0,
    )

    input_prefix: str = Field(default="", description="Text before the cursor's line.")
    input_suffix: str = Field(default="", description="Text after the cursor.")
    prompt: str = Field(default="", description="The cursor's line, up to the cursor.")
    completion_mode: CompletionModeField = "auto"
    input_extra: list[InfillFile] = Field(
        default_factory=list, max_length=1024, description="Parts of other files, used as far as there is room."
    )


class Timings(BaseModel):
    cache_n: int = Field(description="Prompt tokens that came from the cache.")
    prompt_n: int = Field(description="Prompt tokens that were processed.")
    prompt_ms: float = Field(description="Until the first token, waiting included.")
    prompt_per_token_ms: float = Field(description="For each of them.")
    prompt_per_second: float = Field(description="How many of them a second.")
    predicted_n: int = Field(description="Tokens generated.")
    predicted_ms: float = Field(description="From the first token to the last.")
    predicted_per_token_ms: float = Field(description="For each of them.")
    predicted_per_second: float = Field(description="How many of them a second.")


class LlamaCompletion(BaseModel):
    """Without `response_fields`; with them, those of these fields that it names."""

    index: int | None = Field(default=None, description="Number of the completion.")
    content: str | None = Field(default=None, description="The completion; in a stream, the part that is new.")
    tokens: list[int] | None = Field(default=None, description="Its token ids, where asked for.")
    stop: bool | None = Field(default=None, description="False in a stream before its last event.")
    model: str | None = Field(default=None, description="Id of the model that answered.")
    tokens_predicted: int | None = Field(default=None, description="Tokens generated.")
    tokens_evaluated: int | None = Field(default=None, description="Tokens of the prompt.")
    tokens_cached: int | None = Field(default=None, description="Those of them that came from the cache.")
    truncated: bool | None = Field(default=None, description="Always false: the window is never exceeded.")
    stop_type: Literal["none", "eos", "limit", "word"] | None = Field(default=None, description="Why it ended.")
    ended_by: EndedBy = None
    stopping_word: str | None = Field(default=None, description="The stop string that ended it, or nothing.")
    generation_settings: dict[str, Any] | None = Field(default=None, description="What was asked for.")
    timings: Timings | None = Field(default=None, description="How long it took.")


class LlamaErrorDetail(BaseModel):
    code: int = Field(description="The HTTP status.")
    message: str = Field(description="What is wrong.")
    type: str = Field(description="The kind of error.")


class LlamaError(BaseModel):
    error: LlamaErrorDetail = Field(description="What went wrong.")


def llama_error(error: ServeError) -> tuple[int, Any]:
    kind = {404: "not_found_error", 503: "unavailable_error"}.get(error.status, error.type)
    return error.status, {"error": {"code": error.status, "message": error.message, "type": kind}}


DIALECT = Dialect("llamacpp", "llama.cpp", error_shape=llama_error)


async def infill_request(body: InfillRequest, api: ApiContext, caller: Caller = ANYBODY) -> GenerationRequest:
    """Translate; raise InvalidRequestError."""
    files = tuple(ContextFile(file.filename, file.text) for file in body.input_extra)
    form = api.gap(body.input_suffix, RepositoryContext(files=files))
    return await _generation_request(body, api, [body.input_prefix + body.prompt], form, caller)


async def completion_request(
    body: LlamaCompletionRequest, api: ApiContext, caller: Caller = ANYBODY
) -> GenerationRequest:
    """Translate; raise InvalidRequestError."""
    return await _generation_request(body, api, body.prompt, Raw(), caller)


async def _generation_request(
    body: LlamaSampling,
    api: ApiContext,
    prompts: list[str] | list[list[int]],
    form: PromptForm,
    caller: Caller,
) -> GenerationRequest:
    api.check_fan_out(len(prompts), body.n_cmpl)
    wanted = None if body.n_predict < 0 else max(body.n_predict, 1)
    fitted = await fit_prompts(api, await api.model(), prompts, Rendering(form, truncate=-1), wanted)
    changes = {"temperature": max(body.temperature, 0.0), "seed": None if body.seed < 0 else body.seed}
    return GenerationRequest(
        request_id=uuid.uuid4().hex,
        prompts=fitted.prompts,
        params=body.model_copy(update=changes).to_params(
            max_tokens=fitted.max_tokens,
            limits=api.limits,
            vocab_size=api.tokenizer.vocab_size,
            logprobs=body.n_probs or None,
        ),
        n=body.n_cmpl,
        best_of=body.n_cmpl,
        stop=body.stop,
        **body.options(api.tokenizer, prompts, form, caller),
    )


async def _news(api: ApiContext, request: GenerationRequest, stops: SelfStops) -> AsyncGenerator[list[Delta], None]:
    """What the backend says, ended early where the request's own rules end it."""
    async with aclosing(api.backend.stream(request)) as updates:
        async for deltas in updates:
            kept = [delta for delta in map(stops.apply, deltas) if delta is not None]
            if kept:
                yield kept
            if stops.ended == len(request.prompts) * request.best_of:
                return


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The completion; several as an array; with `stream`, server-sent events of its parts.",
        "content": EVENT_STREAM_CONTENT,
    },
    "4XX": {"model": LlamaError, "description": "The request cannot be served as it is."},
    429: {"model": LlamaError, "description": "The queue is full; `Retry-After` says when to try again."},
    500: {"model": LlamaError, "description": "The server failed."},
    503: {"model": LlamaError, "description": "The engine is starting, draining or dead."},
}


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(route_class=JsonRoute.of(DIALECT), tags=[DIALECT.title], responses=_RESPONSES)
    answer_model = LlamaCompletion | list[LlamaCompletion]

    async def answer(body: LlamaSampling, request: GenerationRequest, several: bool) -> Response:
        model = await api.model()
        writer = LlamaWriter(
            tokenizer=api.tokenizer,
            request=request,
            model=model,
            n_predict=body.n_predict,
            n_probs=body.n_probs,
            return_tokens=body.return_tokens,
            timings_per_token=body.timings_per_token,
            response_fields=body.response_fields,
        )
        if writer.warms_up:
            request_record.nobody_waits()
        stops = SelfStops(body.n_indent, body.t_max_predict_ms)
        if body.stream:
            return await EventStream.open(writer.to_events(_news(api, request, stops)))
        async with aclosing(_news(api, request, stops)) as updates:
            async for deltas in updates:
                writer.add(deltas)
        long = is_long(writer.whole.values(), body.n_probs)
        return Response(await off_loop(long, writer.to_json, several), media_type="application/json")

    @router.post("/infill", response_model=answer_model, summary="Fill a gap in code, as llama.cpp's server does")
    async def infill(body: InfillRequest, caller: CallerOf) -> Response:
        return await answer(body, await infill_request(body, api, caller), body.n_cmpl > 1)

    @router.post("/completion", response_model=answer_model, summary="Continue a text, as llama.cpp's server does")
    async def completion(body: LlamaCompletionRequest, caller: CallerOf) -> Response:
        request = await completion_request(body, api, caller)
        return await answer(body, request, len(request.prompts) * body.n_cmpl > 1)

    return router
