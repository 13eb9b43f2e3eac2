"""Text to token ids and back: plain text, fill-in-the-middle, repository context.

User text never becomes a special token by accident: `encode` treats their names as text. Special tokens enter
a prompt as ids only, from a template here or from a raw prompt (`encode_prompt`) in which a client wrote them
on purpose.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import tokenizers

from model.config import ConfigError
from model.text.fim import FimMode, FimPrompt, FimTokens, RepositoryContext, UnsupportedError, parse_fim
from model.text.truncation import anchor_stride, demand, left_cut, round_up, split_window

SUFFIX_SHARE = 0.25
"""Share of a full window that the suffix may take when both sides overflow."""

CHARS_PER_TOKEN = (8, 32)
"""How many characters for each token of the window are encoded: most code has 3 to 4, so the first will do.
The second is tried where it does not fill the window. What lies beyond is cut unread."""

_UNSETTLED = re.compile(r"\s*\S*\Z")

_END_OF_TEXT = "<|endoftext|>"


def _byte_of_char() -> dict[str, int]:
    """GPT-2's byte-level alphabet, inverted: printable bytes stand for themselves, the others for U+0100 on.

    Source: `bytes_to_unicode` in GPT-2's encoder.py.
    """
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in set(kept)]
    return {chr(byte): byte for byte in kept} | {chr(256 + i): byte for i, byte in enumerate(moved)}


_BYTE_OF_CHAR = _byte_of_char()


class Tokenizer:
    """A byte-level BPE vocabulary of the StarCoder family.

    vocab_size: one more than the highest id; the model's embedding may be padded beyond it.
    special: name to id of every special token. special_ids: the ids alone.
    fim: the fill-in-the-middle markers, or None if the vocabulary has none.
    fim_mode: the order of a fill-in-the-middle prompt that this checkpoint fills better, as its maker says.
    chat_template: Jinja source that writes a conversation as the model was trained on it, or None.
    """

    def __init__(
        self,
        rules: dict[str, Any],
        eos_token: str = _END_OF_TEXT,
        chat_template: str | None = None,
        fim_mode: FimMode = "psm",
    ) -> None:
        """Build from the contents of a `tokenizer.json`. Raises ConfigError where they do not fit."""
        _check_byte_level(rules)
        added = [token | {"special": _is_special(token)} for token in rules.get("added_tokens", [])]
        self.special: dict[str, int] = {token["content"]: token["id"] for token in added if token["special"]}
        if eos_token not in self.special:
            raise ConfigError(f"the tokenizer has no special token {eos_token!r} to end a text with")
        # A tokenizer.json may carry the truncation and padding of a training run.
        rules = rules | {"added_tokens": added, "truncation": None, "padding": None}
        try:
            self._rules = tokenizers.Tokenizer.from_str(json.dumps(rules))
        except Exception as error:  # the library raises bare Exception
            raise ConfigError(f"the tokenizer cannot be built: {error}") from error
        self._rules.encode_special_tokens = True  # as text, that is
        vocabulary = self._rules.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocabulary.values()) + 1
        self._bytes = [b""] * self.vocab_size
        for token, id in vocabulary.items():
            self._bytes[id] = _undo_byte_level(token)
        for token in added:
            self._bytes[token["id"]] = token["content"].encode()
        self.eos_token, self.eos_id = eos_token, self.special[eos_token]
        self.chat_template = chat_template
        self.fim_mode = fim_mode
        self.fim = FimTokens.find(self.special)
        self.special_ids = frozenset(self.special.values())
        names = sorted(self.special, key=len, reverse=True)
        self._special_pattern = re.compile("(" + "|".join(map(re.escape, names)) + ")")

    @classmethod
    def from_checkpoint(cls, directory: Path) -> Tokenizer:
        """Read `directory/tokenizer.json`. Raises ConfigError where it is missing or unfit."""
        path = directory / "tokenizer.json"
        try:
            rules = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{directory} holds no tokenizer.json. Save one with "
                "`AutoTokenizer.from_pretrained(...).save_pretrained(...)` of transformers"
            ) from None
        except ValueError as error:
            raise ConfigError(f"{path} is not JSON: {error}") from error
        if not isinstance(rules, dict):
            raise ConfigError(f"{path} is not a tokenizer: its JSON is no object")
        try:
            return cls(rules, _eos_token(directory), _chat_template(directory), _fim_mode(directory))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    # Text to ids

    def encode(self, text: str) -> list[int]:
        """Plain text: the name of a special token in it is text like any other.

        Raises ValueError (UnicodeEncodeError) on a lone surrogate, which has no UTF-8.
        """
        try:
            return self._rules.encode(text, add_special_tokens=False).ids
        except TypeError:  # what the library says of a lone surrogate
            text.encode()
            raise

    def encode_prompt(self, text: str) -> list[int]:
        """A raw prompt: special tokens written in it become their ids, as editors that template expect.

        In a prompt of FIM shape only the template's own markers and the metadata at the start of the prefix
        do; the two sides of the cursor are plain text.
        """
        prompt = self.parse_fim(text)
        if prompt is None or self.fim is None:
            return self._encode_with_special(text)
        prefix = self._encode_with_special(prompt.header) + self.encode(prompt.prefix)
        ids = self.fim.join(prompt.mode, prefix, self.encode(prompt.suffix))
        return self._encode_with_special(prompt.head) + ids + self.encode(prompt.started)

    def parse_fim(self, text: str) -> FimPrompt | None:
        """Take apart a raw prompt that has the shape of PSM or SPM; None for any other."""
        return parse_fim(text, self.fim, self.eos_token) if self.fim else None

    def _encode_with_special(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in self._special_pattern.split(text):
            if piece in self.special:
                ids.append(self.special[piece])
            elif piece:
                ids.extend(self.encode(piece))
        return ids

    # Prompts that fit a window

    def render_fim(
        self,
        prefix: str,
        suffix: str,
        *,
        mode: FimMode,
        max_tokens: int,
        block_size: int,
        context: RepositoryContext | None = None,
        suffix_share: float = SUFFIX_SHARE,
    ) -> list[int]:
        """The prompt for the text between `prefix` and `suffix`, at most `max_tokens` ids.

        What does not fit is cut: context files first, then the prefix from its left and the suffix from its
        right (model/text/truncation.py says where). Both are plain text.
        Raises UnsupportedError where the vocabulary lacks the tokens, ValueError below 4 `max_tokens`.
        """
        if self.fim is None:
            raise UnsupportedError("this model has no fill-in-the-middle tokens: `suffix` cannot be used")
        if not 0 <= suffix_share < 1:
            raise ValueError(f"suffix_share={suffix_share} is not in [0, 1)")
        header = self._header(context, max_tokens)
        budget = max_tokens - 3 - len(header)
        if budget < 1:
            raise ValueError(f"a window of {max_tokens} tokens has no room for a fill-in-the-middle prompt")
        stride = anchor_stride(budget, block_size)
        before, after = self._encode_end(prefix, budget), self._encode_start(suffix, budget)
        need = demand(len(before), self._settled(prefix, before), stride)
        split = split_window(len(before), len(after), budget, stride, suffix_share, need)
        documents = self._documents(context, budget - len(after) - round_up(need, stride))
        kept = header + before[self._character_start(before, split.prefix_start) :]
        return documents + self.fim.join(mode, kept, after[: self._character_end(after, split.suffix_end)])

    def render_plain(
        self, text: str, *, max_tokens: int, block_size: int, context: RepositoryContext | None = None
    ) -> list[int]:
        """The prompt that continues the plain text `text`, cut from its left to at most `max_tokens` ids.

        Raises UnsupportedError where the vocabulary lacks the tokens, ValueError below 1 `max_tokens`.
        """
        header = self._header(context, max_tokens)
        budget = max_tokens - len(header)
        if budget < 1:
            raise ValueError(f"a window of {max_tokens} tokens has no room for a prompt")
        stride = anchor_stride(budget, block_size)
        ids = self._encode_end(text, budget)
        need = demand(len(ids), self._settled(text, ids), stride)
        start = self._character_start(ids, left_cut(len(ids), budget, stride, need))
        return self._documents(context, budget - round_up(need, stride)) + header + ids[start:]

    def _encode_end(self, text: str, budget: int) -> list[int]:
        """Ids of the end of `text`: all, or more than `budget`, from an anchored character on."""
        for limit in (budget * chars for chars in CHARS_PER_TOKEN):
            start = left_cut(len(text), limit, limit // 4)
            ids = self.encode(text[start:])
            if start == 0 or len(ids) > budget:
                break
        return ids

    def _encode_start(self, text: str, budget: int) -> list[int]:
        """Ids of the start of `text`: all, or more than `budget`."""
        for limit in (budget * chars for chars in CHARS_PER_TOKEN):
            ids = self.encode(text[:limit])
            if limit >= len(text) or len(ids) > budget:
                break
        return ids

    def _settled(self, text: str, ids: Sequence[int]) -> int:
        """How many of `ids` no text typed behind `text` can change: those before the last white space.

        Words are encoded one by one, and white space as one run up to the next word.
        """
        tail = _UNSETTLED.search(text)
        open_bytes = len(tail.group().encode()) if tail else 0
        settled = len(ids)
        while open_bytes > 0 and settled > 0:
            settled -= 1
            open_bytes -= len(self._bytes[ids[settled]])
        return settled

    def _header(self, context: RepositoryContext | None, max_tokens: int) -> list[int]:
        """Metadata of the file being edited; left out if it would take over a quarter of the window."""
        if context is None or not (context.name or context.path):
            return []
        header = self._metadata(context.name, context.path) + self.encode("\n")
        return header if 4 * len(header) <= max_tokens else []

    def _metadata(self, name: str | None, path: str | None) -> list[int]:
        ids: list[int] = []
        for token, value in (("<reponame>", name), ("<filename>", path)):
            if value:
                if token not in self.special:
                    raise UnsupportedError(f"this model has no {token}: repository context cannot be used")
                ids += [self.special[token], *self.encode(value)]
        return ids

    def _documents(self, context: RepositoryContext | None, room: int) -> list[int]:
        """Context files as documents, as many as fit in `room` tokens; the last may be cut."""
        ids: list[int] = []
        for file in context.files if context else ():
            metadata = self._metadata(context.name if context else None, file.path)
            left = room - len(ids) - len(metadata) - 1
            if left < 1:
                break
            content = self._encode_start("\n" + file.content if metadata else file.content, left)
            kept = self._character_end(content, min(len(content), left))
            if kept < min(len(content), len(metadata)):
                break  # a stub is not worth its metadata
            ids += [*metadata, *content[:kept], self.eos_id]
            if kept < len(content):
                break
        return ids

    def _character_start(self, ids: Sequence[int], start: int) -> int:
        """`start`, moved right past tokens that begin inside a UTF-8 character."""
        while 0 < start < len(ids) and self._inside_character(ids[start]):
            start += 1
        return start

    def _character_end(self, ids: Sequence[int], end: int) -> int:
        """`end`, moved left until the token after it does not begin inside a UTF-8 character."""
        while 0 < end < len(ids) and self._inside_character(ids[end]):
            end -= 1
        return end

    def _inside_character(self, id: int) -> bool:
        return b"\x80" <= self._bytes[id][:1] < b"\xc0"

    # Ids to text

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of a whole sequence; bytes that are no UTF-8 become U+FFFD. Streams: Detokenizer."""
        skipped = self.special_ids if skip_special else frozenset()
        return b"".join([self.token_bytes(id) for id in ids if id not in skipped]).decode(errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token stands for; of a special token, its name. Ids without a token are empty."""
        return self._bytes[id] if 0 <= id < self.vocab_size else b""

    def token_text(self, id: int) -> str:
        """One token as text; a part of a character shows as U+FFFD."""
        return self.token_bytes(id).decode(errors="replace")


def _is_special(token: dict[str, Any]) -> bool:
    # Some checkpoints add the FIM markers as ordinary tokens; a user's text must not reach them all the same.
    return bool(token.get("special")) or token["content"].startswith(("<fim_", "<fim-"))


def _undo_byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF_CHAR[char] for char in token)
    except KeyError:
        return token.encode()


def _check_byte_level(rules: dict[str, Any]) -> None:
    kind, decoder = (rules.get("model") or {}).get("type"), (rules.get("decoder") or {}).get("type")
    if kind != "BPE" or decoder != "ByteLevel":
        raise ConfigError(f"StarCoder's tokenizer is a byte-level BPE; this is {kind} with decoder {decoder}")


def _eos_token(directory: Path) -> str:
    eos = _configuration(directory).get("eos_token") or _END_OF_TEXT
    # Older checkpoints write an added token with its flags where newer ones write its name.
    return eos["content"] if isinstance(eos, dict) else eos


def _chat_template(directory: Path) -> str | None:
    path = directory / "chat_template.jinja"  # where transformers has written it since 4.52
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = _configuration(directory).get("chat_template")
    if isinstance(template, list):  # several, by name
        by_name = {entry["name"]: entry["template"] for entry in template}
        template = by_name.get("default")
    return template


def _fim_mode(directory: Path) -> FimMode:
    mode = _configuration(directory).get("fim_mode", "psm")
    if mode not in get_args(FimMode):
        raise ConfigError(f"fim_mode of tokenizer_config.json is {mode!r}, not one of {', '.join(get_args(FimMode))}")
    return mode


def _configuration(directory: Path) -> dict[str, Any]:
    path = directory / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        configuration = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not a tokenizer's configuration: {error}") from error
    if not isinstance(configuration, dict):
        raise ConfigError(f"{path} is not a tokenizer's configuration: its JSON is no object")
    return configuration
