"""Fill-in-the-middle prompts of a small StarCoder vocabulary, made and read back."""

from __future__ import annotations

import inspect
import json.decoder
import textwrap

from hypothesis import strategies as st

from model.text.context import RepositoryContext
from model.text.fim import FimMode
from model.text.prompts import Infill, render
from model.text.tokenizer import Tokenizer
from model.text.truncation import SUFFIX_SHARE, Window
from tests.support.tokenizers import STARCODER_SPECIAL, starcoder_rules

STARCODER = Tokenizer(starcoder_rules())
EOS, PREFIX, MIDDLE, SUFFIX, _PAD, FILENAME = range(6)
REPONAME = 18
SOURCE = inspect.getsource(textwrap)
OTHER = inspect.getsource(json.decoder)
BLOCK = 16

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
markerless = text.filter(lambda value: "<" not in value)
hostile = st.lists(text | st.sampled_from(STARCODER_SPECIAL), max_size=6).map("".join)
modes = st.sampled_from(["psm", "spm"])


def infill(
    prefix: str,
    suffix: str,
    mode: FimMode = "psm",
    max_tokens: int = 8192,
    *,
    context: RepositoryContext | None = None,
    suffix_share: float = SUFFIX_SHARE,
) -> list[int]:
    window = Window(max_tokens, BLOCK, suffix_share=suffix_share)
    return render(STARCODER, prefix, Infill(mode, suffix, context), window)


def parts(ids: list[int]) -> tuple[list[int], list[int]]:
    """Prefix and suffix of a rendered prompt, read back by the definition of the two shapes."""
    middle, suffix = ids.index(MIDDLE), ids.index(SUFFIX)
    if ids[ids.index(PREFIX) + 1] == SUFFIX and middle != len(ids) - 1:  # SPM
        return ids[middle + 1 :], ids[suffix + 1 : middle]
    assert middle == len(ids) - 1
    return ids[ids.index(PREFIX) + 1 : suffix], ids[suffix + 1 : middle]
