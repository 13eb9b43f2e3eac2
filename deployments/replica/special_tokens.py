"""What a request means for the model's special tokens: which end a completion, and which are never drawn."""

from __future__ import annotations

import msgspec

from deployments.protocol import GenerationRequest
from model.text.tokenizer import Tokenizer


def barred_ids(request: GenerationRequest, tokenizer: Tokenizer) -> tuple[int, ...]:
    """All but end-of-text, and those that the request names; none where it allows them.

    Editors name the markers of fill-in-the-middle as stop strings to be rid of them: that asks for none.
    """
    if request.special_tokens:
        return ()
    params = request.params
    stops = special_stops(request, tokenizer).keys() - tokenizer.fim_ids
    named = {tokenizer.eos_id, *params.stop_token_ids, *params.logit_bias, *stops}
    return tuple(sorted(tokenizer.special_ids - named))


def with_special_stops(request: GenerationRequest, tokenizer: Tokenizer) -> GenerationRequest:
    """With the special tokens that stop strings name as stop tokens: they have no text that could match."""
    ids = tuple(special_stops(request, tokenizer))
    if not ids:
        return request
    params = msgspec.structs.replace(request.params, stop_token_ids=(*request.params.stop_token_ids, *ids))
    return msgspec.structs.replace(request, params=params)


def special_stops(request: GenerationRequest, tokenizer: Tokenizer) -> dict[int, str]:
    """The stop strings that name a special token, by its id."""
    return {tokenizer.special[stop]: stop for stop in request.stop if stop in tokenizer.special}
