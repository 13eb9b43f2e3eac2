"""What a request means for the model's special tokens: which end a completion, and which are never drawn."""

from __future__ import annotations

import msgspec

from deployments.protocol import GenerationRequest
from model.text.tokenizer import Tokenizer


def with_special_tokens(request: GenerationRequest, tokenizer: Tokenizer) -> GenerationRequest:
    """With the special tokens that stop strings name as stop tokens, since they have no text that could match.

    Beside end-of-text, only those are drawn that the request names, or all of them where it says so. Editors name the
    markers of fill-in-the-middle as stop strings to be rid of them: that asks for none.
    """
    params, stops = request.params, special_stops(request, tokenizer)
    named = {tokenizer.eos_id, *params.stop_token_ids, *params.logit_bias, *(stops.keys() - tokenizer.fim_ids)}
    changes = {
        "stop_token_ids": (*params.stop_token_ids, *stops),
        "barred_token_ids": () if request.special_tokens else tuple(sorted(tokenizer.special_ids - named)),
    }
    return msgspec.structs.replace(request, params=msgspec.structs.replace(params, **changes))


def special_stops(request: GenerationRequest, tokenizer: Tokenizer) -> dict[int, str]:
    """The stop strings that name a special token, by its id."""
    return {tokenizer.special[stop]: stop for stop in request.stop if stop in tokenizer.special}
