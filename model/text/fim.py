"""Fill-in-the-middle templates: the two orders in which StarCoder was trained.

Source: StarCoder, arXiv:2305.06161; BigCode's Megatron-LM, `megatron/data/gpt_dataset.py` (its `permute`: half of the
documents are cut, half of these in SPM, "variant 2" of the FIM paper, arXiv:2207.14255). A document is cut in
characters, the parts are encoded separately, and the ids are joined as

    PSM    <fim_prefix> prefix <fim_suffix> suffix <fim_middle> middle
    SPMv2  <fim_prefix> <fim_suffix> suffix <fim_middle> prefix middle

Who types makes the prefix longer: in SPM that only appends, and all that was computed of the prompt stays of use. In
PSM each key moves the suffix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

FimMode = Literal["psm", "spm"]


@dataclass(frozen=True)
class FimOrder:
    """An order, and who chose it: the request, the server's setting, the checkpoint's own word, or what is known of its
    family."""

    mode: FimMode
    chosen_by: Literal["request", "setting", "checkpoint", "family", "default"]


DEFAULT_ORDER = FimOrder("psm", "default")


class UnsupportedError(ValueError):
    """The model's vocabulary lacks the special tokens that the request needs."""


@dataclass(frozen=True)
class FimTokens:
    """Ids of the fill-in-the-middle markers, and the names they have in this vocabulary."""

    prefix: int
    middle: int
    suffix: int
    pad: int | None
    prefix_name: str = "<fim_prefix>"
    middle_name: str = "<fim_middle>"
    suffix_name: str = "<fim_suffix>"

    @classmethod
    def find(cls, special: dict[str, int]) -> FimTokens | None:
        """Look the markers up by name, as StarCoder (`_`) or as SantaCoder (`-`) writes them."""
        for dash in "_-":
            prefix, middle, suffix = (f"<fim{dash}{part}>" for part in ("prefix", "middle", "suffix"))
            if prefix in special and middle in special and suffix in special:
                pad = special.get(f"<fim{dash}pad>")
                return cls(special[prefix], special[middle], special[suffix], pad, prefix, middle, suffix)
        return None

    @property
    def ids(self) -> frozenset[int]:
        return frozenset({self.prefix, self.middle, self.suffix} | ({self.pad} if self.pad is not None else set()))

    @property
    def order(self) -> FimOrder:
        """The order for a checkpoint that names none.

        BigCode's vocabularies have all four markers, and its models were trained in both orders, as were IBM's on
        StarCoder's vocabulary (arXiv:2405.04324). What was trained further knows both as well as it still fills; one
        that was trained to fill in PSM alone has to say so. Of other vocabularies nothing is known, and PSM is what
        everybody trains.
        """
        return DEFAULT_ORDER if self.pad is None else FimOrder("spm", "family")

    def join(self, mode: FimMode, prefix: Sequence[int], suffix: Sequence[int]) -> list[int]:
        """The prompt whose continuation is the middle: len(prefix) + len(suffix) + 3 ids."""
        if mode == "psm":
            return [self.prefix, *prefix, self.suffix, *suffix, self.middle]
        return [self.prefix, self.suffix, *suffix, self.middle, *prefix]


@dataclass(frozen=True)
class FimPrompt:
    """A raw prompt that an editor templated itself, taken apart.

    head: what stands before the first marker (other documents).
    header: metadata that opens the prefix (`<filename>a.py` and a newline).
    started: what the middle already begins with (PSM only; in SPM it is the end of the prefix).
    """

    mode: FimMode
    prefix: str
    suffix: str
    head: str = ""
    header: str = ""
    started: str = ""


# Metadata may only open a prefix; anything later that looks like it is the user's own text.
_HEADER = re.compile(r"(?=<)(?:<reponame>[^<\n]*)?(?:<filename>[^<\n]*)?(?:<gh_stars>[^<\n]*)?\n?")


def parse_fim(text: str, tokens: FimTokens, document_end: str) -> FimPrompt | None:
    """Take apart a prompt of the shape PSM or SPMv2; None where it has neither.

    The template is the outermost one: the first prefix marker, the first suffix marker after it, and the middle
    marker that ends the prompt, or else the first after the suffix marker. Markers elsewhere belong to the file
    that is being edited. A file that names the markers can still fool this in SPM (its first middle marker ends
    the suffix): only a `suffix` of its own, which is never parsed, is safe for every text. Documents before the
    template (few-shot examples, context files) end in `document_end`.
    """
    start = text.rfind(document_end + tokens.prefix_name)
    start = start + len(document_end) if start >= 0 else text.find(tokens.prefix_name)
    if start < 0:
        return None
    after_prefix = start + len(tokens.prefix_name)
    suffix_at = text.find(tokens.suffix_name, after_prefix)
    if suffix_at < 0:
        return None
    after_suffix = suffix_at + len(tokens.suffix_name)
    ends_in_middle = text.endswith(tokens.middle_name) and len(text) - len(tokens.middle_name) >= after_suffix
    middle_at = (text.rfind if ends_in_middle else text.find)(tokens.middle_name, after_suffix)
    if middle_at < 0:
        return None
    head, suffix = text[:start], text[after_suffix:middle_at]
    tail = text[middle_at + len(tokens.middle_name) :]
    before = text[after_prefix:suffix_at]
    if before or not tail:
        header, prefix = _split_header(before)
        return FimPrompt("psm", prefix, suffix, head, header, started=tail)
    header, prefix = _split_header(tail)
    return FimPrompt("spm", prefix, suffix, head, header)


def _split_header(prefix: str) -> tuple[str, str]:
    match = _HEADER.match(prefix)
    end = match.end() if match else 0
    return prefix[:end], prefix[end:]
