"""Hugging Face's Text Generation Inference: `/generate`, `/generate_stream`, `POST /`, `/models/{id}` and `/info`.

Source: `router/src/lib.rs` and `router/src/server.rs` of huggingface/text-generation-inference. Decisions: as there,
`inputs` may hold special tokens on purpose, a stop sequence stays in the text, and sampling is greedy unless a field
asks for more. `watermark` and `typical_p` are ignored, `grammar` and adapters refused. A request that fails before
its first token has an HTTP status in a stream too, where TGI answers 200 and an event.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Path
from pydantic import BaseModel, Field
from starlette.responses import Response

from deployments.api.common.code_fields import ANYBODY, Caller, CallerOf, CodeFields
from deployments.api.common.context import ApiContext
from deployments.api.common.dialect import Dialect
from deployments.api.common.ended_by import EndedBy
from deployments.api.common.examples import SERVED_MODEL, example
from deployments.api.common.fitting import fit_prompts
from deployments.api.common.given_up import check_not_given_up
from deployments.api.common.json_body import JsonRoute
from deployments.api.common.off_loop import is_long, off_loop
from deployments.api.common.paths import ANY_TEXT
from deployments.api.common.rendering import Rendering
from deployments.api.common.sampling import DialectModel
from deployments.api.common.streaming import EVENT_STREAM_CONTENT, EventStream, sse
from deployments.api.openai.logprobs import finite
from deployments.api.openai.schemas import ending
from deployments.api.parameters.bounds import INT32_MAX, UINT64_MAX, refuse_if
from deployments.api.parameters.candidates import TOP_K, TOP_P
from deployments.api.parameters.length import MAX_TOKENS
from deployments.api.parameters.logprobs import LOGPROBS, check_alternatives
from deployments.api.parameters.seed import SEED
from deployments.api.parameters.temperature import TEMPERATURE
from deployments.api.tgi.tokens import TokenWriter
from deployments.errors import OverloadedError, ServeError
from deployments.protocol import Delta, GenerationRequest
from monitoring.version import package_version

_DEFAULT_NEW_TOKENS = 1024


class GenerateParameters(CodeFields):
    """Unknown fields are ignored; null stands for a field's default."""

    passed_over = frozenset({"watermark"})

    best_of: int = Field(default=1, ge=1, le=INT32_MAX, description="Sample this many and answer with the likeliest.")
    do_sample: bool = Field(default=False, description="Sample, even if no other field asks for it.")
    temperature: float = TEMPERATURE.field(le=100, description="Other than 1: sample with this temperature.")
    top_k: int = TOP_K.field(ge=0)
    top_p: float = TOP_P.field(gt=0)
    typical_p: float = Field(default=1.0, gt=0, le=1, description="Ignored.")
    seed: int | None = SEED.field(ge=0, le=UINT64_MAX)
    max_new_tokens: int | None = MAX_TOKENS.field(
        default=None, ge=1, description="Most tokens to generate; left out: 1024 or what there is room for."
    )
    return_full_text: bool | None = Field(
        default=None, description="Put `inputs` before the text; left out: only where arrays are answered."
    )
    truncate: int | None = Field(default=None, ge=1, le=INT32_MAX, description="Keep this many tokens of `inputs`.")
    details: bool = Field(default=False, description="Report tokens, log-probabilities and why it ended.")
    decoder_input_details: bool = Field(default=False, description="Report the log-probabilities of `inputs` too.")
    top_n_tokens: int = LOGPROBS.field(default=0, description="Report this many alternatives.")
    grammar: Any = Field(default=None, description="Refused.")
    adapter_id: str | None = Field(default=None, description="Refused.")

    @property
    def samples(self) -> bool:
        return self.do_sample or self.temperature != 1 or self.top_k > 0 or self.top_p < 1 or self.typical_p < 1


class GenerateRequest(DialectModel):
    model_config = example(
        "Continue a prompt",
        inputs="import logging\n\nlogger = logging.",
        parameters={"max_new_tokens": 16, "stop": ["\n"]},
    )

    inputs: str = Field(min_length=1, description="The prompt; special tokens written in it count as such.")
    parameters: GenerateParameters = Field(default_factory=GenerateParameters, description="How to generate.")


class CompatRequest(GenerateRequest):
    stream: bool = Field(default=False, description="Answer with server-sent events, as `/generate_stream` does.")


FinishReason = Literal["length", "eos_token", "stop_sequence"]


class PrefillToken(BaseModel):
    id: int = Field(description="Token id.")
    text: str = Field(description="Its text.")
    logprob: float | None = Field(description="Null for the first, which nothing predicts.")


class Token(BaseModel):
    id: int = Field(description="Token id.")
    text: str = Field(description="What it adds to the text.")
    logprob: float = Field(description="Natural logarithm of its probability.")
    special: bool = Field(description="Not part of the text.")


class Sequence(BaseModel):
    finish_reason: FinishReason = Field(description="Why it ended.")
    ended_by: EndedBy = None
    generated_tokens: int = Field(description="How many tokens were generated.")
    seed: int | None = Field(description="The request's seed.")
    prefill: list[PrefillToken] = Field(description="The prompt, if `decoder_input_details` asks for it.")
    tokens: list[Token] = Field(description="What was generated.")
    top_tokens: list[list[Token]] | None = Field(default=None, description="If `top_n_tokens` asks for them.")


class BestOfSequence(Sequence):
    generated_text: str = Field(description="A text that was not chosen.")


class Details(Sequence):
    best_of_sequences: list[BestOfSequence] | None = Field(default=None, description="With `best_of`: the others.")


class Generation(BaseModel):
    generated_text: str = Field(description="The text.")
    details: Details | None = Field(default=None, description="If `details` asks for them.")


class Info(BaseModel):
    model_id: str = Field(description="Id of the served model.")
    model_sha: None = Field(default=None, description="Not known.")
    model_dtype: str = Field(description="Type of the weights.")
    model_pipeline_tag: Literal["text-generation"] = Field(default="text-generation", description="Its task.")
    max_best_of: int = Field(description="Largest `best_of`.")
    max_stop_sequences: int = Field(description="Most stop sequences.")
    max_input_tokens: int = Field(description="Longest prompt.")
    max_input_length: int = Field(description="Its name in older TGIs, which Continue reads.")
    max_total_tokens: int = Field(description="Longest prompt plus completion.")
    router: Literal["starcoder-serve"] = Field(default="starcoder-serve", description="Name of the server.")
    version: str = Field(description="Version of the server.")


class TgiError(BaseModel):
    error: str = Field(description="What is wrong.")
    error_type: str = Field(description="`validation`, `overloaded`, `generation` or `incomplete_generation`.")


def tgi_error(error: ServeError) -> tuple[int, Any]:
    """TGI's status and body: 422 for what is invalid, 424 where the engine failed, 429 for overload."""
    if isinstance(error, OverloadedError):
        return 429, {"error": f"Model is overloaded: {error.message}", "error_type": "overloaded"}
    if error.status in (401, 403, 429):
        return error.status, {"error": error.message, "error_type": "validation"}
    if error.status < 500:
        status = 422 if error.status == 400 and error.code != "invalid_json" else error.status
        return status, {"error": f"Input validation error: {error.message}", "error_type": "validation"}
    if error.status == 503:
        return 424, {"error": f"Request failed during generation: {error.message}", "error_type": "generation"}
    return 500, {"error": error.message, "error_type": "incomplete_generation"}


DIALECT = Dialect("tgi", "TGI", error_shape=tgi_error)


async def to_generation_request(
    body: GenerateRequest, api: ApiContext, caller: Caller = ANYBODY, *, stream: bool
) -> GenerationRequest:
    """Translate; raise InvalidRequestError or ContextLengthError."""
    wants, model = body.parameters, await api.model()
    _check(wants, api, stream)
    rendering = Rendering(truncate=wants.truncate)
    fitted = await fit_prompts(api, model, [body.inputs], rendering, wants.max_new_tokens, unasked=_DEFAULT_NEW_TOKENS)
    reports = stream or wants.details or wants.best_of > 1
    sampling = wants if wants.samples else wants.model_copy(update={"temperature": 0.0})
    return GenerationRequest(
        request_id=uuid.uuid4().hex,
        prompts=fitted.prompts,
        params=sampling.to_params(
            max_tokens=fitted.max_tokens,
            limits=api.limits,
            vocab_size=api.tokenizer.vocab_size,
            logprobs=wants.top_n_tokens if reports else None,
            prompt_logprobs=0 if wants.decoder_input_details else None,
        ),
        best_of=wants.best_of,
        stop=wants.stop,
        include_stop=True,
        **wants.options(api.tokenizer, [body.inputs], rendering.form, caller),
    )


def _check(wants: GenerateParameters, api: ApiContext, stream: bool) -> None:
    refuse_if(wants.grammar is not None, "grammar", "grammar is not supported")
    refuse_if(wants.adapter_id is not None, "adapter_id", "there are no adapters")
    refuse_if(stream and wants.best_of > 1, "best_of", "other than 1 is not supported when streaming tokens")
    refuse_if(wants.best_of > 1 and not wants.samples, "best_of", "you must use sampling when it is over 1")
    refuse_if(wants.best_of > 1 and wants.seed is not None, "seed", "must not be set when `best_of` is over 1")
    refuse_if(
        stream and wants.decoder_input_details,
        "decoder_input_details",
        "is not supported when streaming tokens",
    )
    check_alternatives("top_n_tokens", wants.top_n_tokens, api.limits)
    api.check_fan_out(1, wants.best_of)


def _finish_reason(delta: Delta) -> FinishReason:
    check_not_given_up(delta)
    if delta.finish_reason == "length":
        return "length"
    return "eos_token" if delta.stop_reason is None and delta.ended_by is None else "stop_sequence"


def to_response(
    api: ApiContext, body: GenerateRequest, deltas: list[Delta], full_text: bool, dos: bool = False
) -> dict[str, Any]:
    """One `Generation` of whole completions: the likeliest, and the others in its details. dos: of the line ends."""
    wants = body.parameters
    ranked = sorted(deltas, key=_mean_logprob, reverse=True)
    sequences = [_sequence(api, wants, delta, dos) for delta in ranked]
    texts = [body.inputs + delta.text if full_text else delta.text for delta in ranked]
    answer: dict[str, Any] = {"generated_text": texts[0]}
    if wants.details or wants.decoder_input_details:
        answer["details"] = sequences[0]
        if wants.best_of > 1:
            others = [{"generated_text": text, **rest} for text, rest in zip(texts[1:], sequences[1:], strict=True)]
            answer["details"]["best_of_sequences"] = others
    return answer


def _whole(
    api: ApiContext, body: GenerateRequest, request: GenerationRequest, deltas: list[Delta], full_text: bool
) -> dict[str, Any]:
    answer = to_response(api, body, deltas, full_text, request.is_dos(0))
    if body.parameters.decoder_input_details:
        answer["details"]["prefill"] = _prefill(api, request, deltas[0])
    return answer


def _sequence(api: ApiContext, wants: GenerateParameters, delta: Delta, dos: bool) -> dict[str, Any]:
    written = TokenWriter(api.tokenizer, wants.top_n_tokens, dos).write(delta) if delta.logprobs else []
    sequence: dict[str, Any] = {
        "finish_reason": _finish_reason(delta),
        "generated_tokens": len(delta.token_ids),
        "seed": wants.seed,
        "prefill": [],
        "tokens": [token for token, _ in written],
    }
    sequence |= ending(delta)
    if wants.top_n_tokens:
        sequence["top_tokens"] = [top for _, top in written]
    return sequence


def _prefill(api: ApiContext, request: GenerationRequest, delta: Delta) -> list[dict[str, Any]]:
    pairs = zip(request.prompts[0], delta.prompt_logprobs or [], strict=True)
    return [
        {
            "id": token_id,
            "text": api.tokenizer.token_text(token_id),
            "logprob": None if entry is None else finite(entry.logprob),
        }
        for token_id, entry in pairs
    ]


def _mean_logprob(delta: Delta) -> float:
    entries = delta.logprobs or []
    return sum(entry.logprob for entry in entries) / len(entries) if entries else 0.0


async def to_events(
    api: ApiContext, body: GenerateRequest, request: GenerationRequest, full_text: bool
) -> AsyncGenerator[bytes, None]:
    """One event a token; the last one carries the whole text."""
    wants = body.parameters
    writer = TokenWriter(api.tokenizer, wants.top_n_tokens, request.is_dos(0))
    count = 0
    async with aclosing(api.backend.stream(request)) as updates:
        async for (delta,) in updates:
            events = b""
            reason = None if delta.finish_reason is None else _finish_reason(delta)
            written = writer.write(delta)
            if reason is not None and not written:
                written = [writer.end_of_text()]
            for number, (token, top) in enumerate(written):
                count += 1
                event: dict[str, Any] = {"index": count, "token": token, "generated_text": None, "details": None}
                if wants.top_n_tokens:
                    event["top_tokens"] = top
                if reason is not None and number == len(written) - 1:
                    event["generated_text"] = body.inputs + writer.text if full_text else writer.text
                    if wants.details:
                        event["details"] = {
                            "finish_reason": reason,
                            "generated_tokens": count,
                            "seed": wants.seed,
                            "input_length": len(request.prompts[0]),
                            **ending(delta),
                        }
                events += sse(event)
            if events:
                yield events


_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": TgiError, "description": "The request cannot be served as it is."},
    422: {"model": TgiError, "description": "Something in the request is invalid."},
    424: {"model": TgiError, "description": "The engine failed, or is not there."},
    429: {"model": TgiError, "description": "The queue is full; `Retry-After` says when to try again."},
    500: {"model": TgiError, "description": "The server failed."},
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "The text, or its tokens one by one.", "content": EVENT_STREAM_CONTENT}
}


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(route_class=JsonRoute.of(DIALECT), tags=[DIALECT.title], responses=_ERRORS)

    async def whole(body: GenerateRequest, full_text: bool, caller: Caller) -> tuple[dict[str, Any], dict[str, str]]:
        request = await to_generation_request(body, api, caller, stream=False)
        deltas = await api.backend.generate(request)
        long = is_long(deltas, body.parameters.top_n_tokens)
        answer = await off_loop(long, _whole, api, body, request, deltas, full_text)
        generated = sum(len(delta.token_ids) for delta in deltas)
        counts = {"x-prompt-tokens": str(len(request.prompts[0])), "x-generated-tokens": str(generated)}
        return answer, counts

    async def stream(body: GenerateRequest, full_text: bool, caller: Caller) -> Response:
        request = await to_generation_request(body, api, caller, stream=True)
        return await EventStream.open(to_events(api, body, request, full_text))

    async def compatible(body: CompatRequest, caller: Caller) -> Response:
        full_text = body.parameters.return_full_text is not False
        if body.stream:
            return await stream(body, full_text, caller)
        answer, counts = await whole(body, full_text, caller)
        return Response(msgspec.json.encode([answer]), headers=counts, media_type="application/json")

    @router.post(
        "/generate",
        response_model=Generation,
        summary="Continue a text, as TGI does",
        response_description="The text, with `details` its tokens too.",
    )
    async def generate(body: GenerateRequest, caller: CallerOf) -> Response:
        answer, counts = await whole(body, bool(body.parameters.return_full_text), caller)
        return Response(msgspec.json.encode(answer), headers=counts, media_type="application/json")

    @router.post(
        "/generate_stream",
        response_class=Response,
        responses={200: {"description": "Its tokens one by one.", "content": EVENT_STREAM_CONTENT}},
        summary="Continue a text token by token, as TGI does",
    )
    async def generate_stream(body: GenerateRequest, caller: CallerOf) -> Response:
        return await stream(body, bool(body.parameters.return_full_text), caller)

    @router.post("/", response_model=list[Generation], responses=_STREAM, summary="The same with an array around it")
    async def root(body: CompatRequest, caller: CallerOf) -> Response:
        return await compatible(body, caller)

    @router.post(
        f"/models/{{model_id:{ANY_TEXT}}}",
        response_model=list[Generation],
        responses=_STREAM,
        summary="The same for a model by name, as Hugging Face's inference API has it",
    )
    async def by_model(
        model_id: Annotated[str, Path(description="Id of the model, slashes and all.", examples=[SERVED_MODEL])],
        body: CompatRequest,
        caller: CallerOf,
    ) -> Response:
        await api.served_model(model_id)
        return await compatible(body, caller)

    @router.get("/info", summary="What TGI says of itself", response_description="The model and the limits.")
    async def info() -> Info:
        model = await api.model()
        return Info(
            model_id=model.id,
            model_dtype=model.dtype,
            max_best_of=api.limits.max_fan_out,
            max_stop_sequences=api.limits.max_stop_strings,
            max_input_tokens=model.max_model_len - 1,
            max_input_length=model.max_model_len - 1,
            max_total_tokens=model.max_model_len,
            version=package_version(),
        )

    return router
