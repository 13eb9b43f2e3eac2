"""Text to token ids and back.

User text never becomes a special token by accident: `encode` treats their names as text. Special tokens enter
a prompt as ids only, from a template (model/text/prompts.py) or from text in which a client wrote them on purpose.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import tokenizers

from model.config import ConfigError, ModelConfig, lfs_hint
from model.text.fim import DEFAULT_ORDER, FimMode, FimOrder, FimPrompt, FimTokens, parse_fim

# Texts come one by one: the library's threads would only make it warn where a process that has them forks.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

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
    fim: the fill-in-the-middle markers, or None if the vocabulary has none. fim_ids: their ids.
    fim_order: of a fill-in-the-middle prompt: what the checkpoint's maker says, else what its family was trained on.
    chat_template: Jinja source that writes a conversation as the model was trained on it, or None.
    commits_seen: what the checkpoint's maker says of its training; True where nothing is said.
    """

    def __init__(
        self,
        rules: dict[str, Any],
        eos_token: str = _END_OF_TEXT,
        chat_template: str | None = None,
        fim_mode: FimMode | None = None,
        commits_seen: bool = True,
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
            if (id := vocabulary[token["content"]]) != token["id"]:  # the library numbers them without gaps
                raise ConfigError(f"the added token {token['content']!r} has the id {token['id']}, but would get {id}")
            self._bytes[id] = token["content"].encode()
        self.eos_token, self.eos_id = eos_token, self.special[eos_token]
        self.chat_template = chat_template
        self.commits_seen = commits_seen
        self.fim = FimTokens.find(self.special)
        self.fim_order = self.fim.order if self.fim is not None else DEFAULT_ORDER
        if fim_mode is not None:
            self.fim_order = FimOrder(fim_mode, "checkpoint")
        self.special_ids = frozenset(self.special.values())
        self.fim_ids = frozenset() if self.fim is None else self.fim.ids
        names = sorted(self.special, key=len, reverse=True)
        self._special_pattern = re.compile("(" + "|".join(map(re.escape, names)) + ")")
        self._longest_token = max(map(len, self._bytes))
        self._known: dict[str, list[int]] | None = None

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
            raise ConfigError(f"{path} is not JSON: {error}{lfs_hint(path)}") from error
        if not isinstance(rules, dict):
            raise ConfigError(f"{path} is not a tokenizer: its JSON is no object")
        try:
            said = _eos_token(directory), _chat_template(directory), _fim_mode(directory), _commits_seen(directory)
            return cls(rules, *said)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def check(self, model: ModelConfig) -> None:
        """Raise ConfigError where the model has no embedding for some of these tokens."""
        if self.vocab_size > model.vocab_size:
            raise ConfigError(
                f"the tokenizer has {self.vocab_size} tokens, but config.json says vocab_size={model.vocab_size}: "
                "they do not belong together"
            )

    # Text to ids

    def encode(self, text: str) -> list[int]:
        """Plain text: the name of a special token in it is text like any other. Other threads run meanwhile.

        Raises ValueError (UnicodeEncodeError) on a lone surrogate, which has no UTF-8.
        """
        if self._known is not None and (known := self._known.get(text)) is not None:
            return known.copy()
        try:
            # The library's `encode` would hold the interpreter's lock all the while.
            (encoding,) = self._rules.encode_batch_fast([text], add_special_tokens=False)
        except TypeError:  # what the library says of a lone surrogate
            text.encode()
            raise
        ids: list[int] = encoding.ids
        if self._known is not None:
            self._known[text] = ids.copy()
        return ids

    def remembering(self) -> Tokenizer:
        """The same, for the texts of one request: what several of its prompts share is encoded once."""
        remembering = copy.copy(self)
        remembering._known = {}
        return remembering

    def least_tokens(self, *texts: str) -> int:
        """How many tokens the texts take at least, told without tokenizing them."""
        return sum(len(text.encode()) for text in texts) // self._longest_token

    def encode_with_special(self, text: str) -> list[int]:
        """Text in which the names of special tokens stand for them."""
        ids: list[int] = []
        for piece in self._special_pattern.split(text):
            if piece in self.special:
                ids.append(self.special[piece])
            elif piece:
                ids.extend(self.encode(piece))
        return ids

    def parse_fim(self, text: str) -> FimPrompt | None:
        """Take apart a raw prompt that has the shape of PSM or SPM; None for any other."""
        return parse_fim(text, self.fim, self.eos_token) if self.fim else None

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


def _fim_mode(directory: Path) -> FimMode | None:
    mode: FimMode | None = _configuration(directory).get("fim_mode")
    if mode is not None and mode not in get_args(FimMode):
        raise ConfigError(f"fim_mode of tokenizer_config.json is {mode!r}, not one of {', '.join(get_args(FimMode))}")
    return mode


def _commits_seen(directory: Path) -> bool:
    seen = _configuration(directory).get("commits_seen", True)
    if not isinstance(seen, bool):
        raise ConfigError(f"commits_seen of tokenizer_config.json is {seen!r}, not true or false")
    return seen


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
