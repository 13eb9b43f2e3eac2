"""Repository context: what else of a repository stands in a prompt, in the form StarCoder was trained on.

Source: StarCoder, arXiv:2305.06161; `formats.md` of BigCode's playground. A document may open with any of
`<reponame>NAME<filename>PATH<gh_stars>STARS` and a newline, and ends with `<|endoftext|>`. Training cut every
document on its own, so the metadata of the file being edited lies inside its prefix, and other files stand
before it as whole documents.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.text.excerpts import character_end, encode_start
from model.text.fim import UnsupportedError
from model.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ContextFile:
    """A file other than the one being edited."""

    path: str
    content: str


@dataclass(frozen=True)
class RepositoryContext:
    """Where the edited text comes from, and what else the model should know of that repository.

    name: the repository's name, as in `<reponame>`.
    path: path of the file being edited, as in `<filename>`.
    files: other files, the most relevant first. They open the prompt in this order and are given up from the
        last one on when the window is short, so that what stays keeps its place in the prefix cache.
    """

    name: str | None = None
    path: str | None = None
    files: tuple[ContextFile, ...] = ()

    @property
    def length(self) -> int:
        """Characters of all of it."""
        files = sum(len(file.path) + len(file.content) for file in self.files)
        return len(self.name or "") + len(self.path or "") + files

    def header(self, tokenizer: Tokenizer, max_tokens: int) -> list[int]:
        """Metadata of the file being edited; left out if it would take over a quarter of a window of `max_tokens`.

        Raises UnsupportedError where the vocabulary lacks the tokens.
        """
        if not (self.name or self.path):
            return []
        header = _metadata(tokenizer, self.name, self.path) + tokenizer.encode("\n")
        return header if 4 * len(header) <= max_tokens else []

    def documents(self, tokenizer: Tokenizer, room: int, window: int) -> list[int]:
        """The other files as documents, as many as fit in `room` tokens of a window; the last may be cut.

        Raises UnsupportedError where the vocabulary lacks the tokens.
        """
        ids: list[int] = []
        for file in self.files:
            metadata = _metadata(tokenizer, self.name, file.path)
            left = room - len(ids) - len(metadata) - 1
            if left < 1:
                break
            # What is encoded depends on no prompt's room, so that prompts of one request can share it.
            content = encode_start(tokenizer, "\n" + file.content if metadata else file.content, window)
            kept = character_end(tokenizer, content, min(len(content), left))
            if kept < min(len(content), len(metadata)):
                break  # a stub is not worth its metadata
            ids += [*metadata, *content[:kept], tokenizer.eos_id]
            if kept < len(content):
                break
        return ids


def _metadata(tokenizer: Tokenizer, name: str | None, path: str | None) -> list[int]:
    ids: list[int] = []
    for token, value in (("<reponame>", name), ("<filename>", path)):
        if value:
            if token not in tokenizer.special:
                raise UnsupportedError(f"this model has no {token}: repository context cannot be used")
            ids += [tokenizer.special[token], *tokenizer.encode(value)]
    return ids
