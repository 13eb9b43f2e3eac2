"""The tokenizer beside transformers' AutoTokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from model.text.tokenizer import Tokenizer


class Spelling(NamedTuple):
    """Of a text: its ids where the names of special tokens are text, where they are tokens, and the latter's text."""

    plain: list[int]
    special: list[int]
    text: str


def samples(code: str, tokenizer: Tokenizer) -> list[str]:
    """Code, what code seldom holds, and every special token within code and beside others. code: a long text."""
    pieces = [code[start : start + 700] for start in range(0, min(len(code), 35_000), 700)]
    odd = [
        "",
        " ",
        "\n\n\n\t\t  \n",
        "x" * 200,
        "0123456789 3.14159e-10 0xDEADBEEF",
        "größer, naïve, привет, 漢字の例, 👩‍💻\n",
        "\r\n\tif (a &&\u00a0b) { return ~c; }\r\n",
        "a\u0301 \u200b\ufeff\U0001f600 \x00\x07",
    ]
    names = sorted(tokenizer.special)
    beside = "".join(names)
    within = [f"def f(x):\n    {name} return {name}x\n" for name in names]
    return [*pieces, *odd, *within, beside, " ".join(names), "\n".join(names)]


def ours(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Spelling]:
    """What ours says of the texts."""
    return [_ours(tokenizer, text) for text in texts]


def _ours(tokenizer: Tokenizer, text: str) -> Spelling:
    special = tokenizer.encode_with_special(text)
    return Spelling(tokenizer.encode(text), special, tokenizer.decode(special, skip_special=False))


def theirs(directory: Path, texts: Sequence[str]) -> list[Spelling]:
    """What transformers says of them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    options = {"add_special_tokens": False, "verbose": False}
    found = []
    for text in texts:
        special = tokenizer.encode(text, **options)
        plain = tokenizer.encode(text, split_special_tokens=True, **options)
        written = tokenizer.decode(special, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        found.append(Spelling(plain, special, written))
    return found


def differences(texts: Sequence[str], mine: Sequence[Spelling], other: Sequence[Spelling]) -> list[str]:
    """In words, of each text that the two do not spell alike."""
    found = []
    for text, a, b in zip(texts, mine, other, strict=True):
        ways = [way for way, ours_, theirs_ in zip(_WAYS, a, b, strict=True) if ours_ != theirs_]
        if ways:
            found.append(f"tokenizer: {text[:40]!r} is not what transformers makes of it {' or '.join(ways)}")
    return found


_WAYS = ("as plain text", "with special tokens", "from ids to text")
