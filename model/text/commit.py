"""StarCoder's commit format, which turns a file and a message into the changed file.

Training documents were `<commit_before>` old code `<commit_msg>` message `<commit_after>` new code, ended by
end-of-text (StarCoder, arXiv:2305.06161, section 3.3). Parts are encoded separately, as plain text.
"""

from __future__ import annotations

from typing import Literal

from model.text.fim import UnsupportedError
from model.text.tokenizer import Tokenizer

_MARKERS = ("<commit_before>", "<commit_msg>", "<commit_after>")

CommitKnowledge = Literal["trained", "untrained", "none"]


def commit_knowledge(tokenizer: Tokenizer) -> CommitKnowledge:
    """What a model makes of the format.

    `none`: its vocabulary lacks the tokens. `untrained`: the checkpoint's maker says that it has seen no commit.
    """
    if _missing(tokenizer):
        return "none"
    return "trained" if tokenizer.commits_seen else "untrained"


def render_commit(tokenizer: Tokenizer, code: str, message: str) -> list[int]:
    """The prompt whose continuation is `code` after a commit of that message.

    Raises UnsupportedError where the vocabulary lacks the tokens.
    """
    if missing := _missing(tokenizer):
        raise UnsupportedError(f"this model has no {missing[0]}: it cannot refactor")
    before, said, after = (tokenizer.special[marker] for marker in _MARKERS)
    return [before, *tokenizer.encode(code), said, *tokenizer.encode(message), after]


def _missing(tokenizer: Tokenizer) -> list[str]:
    return [marker for marker in _MARKERS if marker not in tokenizer.special]
