"""The text that a prompt ends with, before what is generated."""

from __future__ import annotations

from collections.abc import Sequence

from model.text.tokenizer import Tokenizer


def text_before(tokenizer: Tokenizer, prompt_ids: Sequence[int], most_tokens: int) -> str:
    """The last tokens of the text before the cursor, in whichever order the prompt is; `most_tokens` at most."""
    fim = tokenizer.fim
    if fim is not None and fim.middle in prompt_ids:
        middle = _last(prompt_ids, fim.middle)
        begins, ends = middle + 1, len(prompt_ids)
        if begins == ends and fim.suffix in prompt_ids[:middle]:  # PSM, or nothing is before the cursor
            ends = _last(prompt_ids[:middle], fim.suffix)
            begins = _last(prompt_ids[:ends], fim.prefix) + 1
    else:
        begins, ends = 0, len(prompt_ids)
    return tokenizer.decode(prompt_ids[max(begins, ends - most_tokens) : ends])


def _last(ids: Sequence[int], wanted: int) -> int:
    """Where it stands last; -1: nowhere."""
    return next((at for at in range(len(ids) - 1, -1, -1) if ids[at] == wanted), -1)
