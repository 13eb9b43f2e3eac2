"""What there is to say of a client of other people, and its configuration for one server.

The files in `known/` hold it in TOML. Places in a configuration that differ from server to server: `{{origin}}`, its
address; `{{model}}`, the served model, between double quotes; `{{key}}`; `{{window}}`, in tokens; `{{answer}}`, most
tokens for what is written, a quarter of the window, and `{{prompt}}`, those that are left for what is read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Literal

import msgspec

Section = Literal["Python", "JavaScript", "Vim and Neovim", "VS Code and JetBrains", "Evaluation"]

NO_KEY = "unused"
"""Where no keys are checked; some clients do nothing without one."""

ANSWER_SHARE = 4
"""Of the window: what is written gets one such part."""

_PLACE = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Server:
    """origin: scheme, host and port. model: its id. window: tokens of prompt and completion together."""

    origin: str
    model: str
    window: int
    key: str = NO_KEY


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """name: what people call it. order: in its section. speaks: dialects, by the row of the table in docs/clients.md.

    language: of the configuration, as Markdown calls it. file: where it goes; None: it is a program's own code.
    note: what else to know, in Markdown.
    """

    name: str
    section: Section
    speaks: dict[str, list[str]]
    language: str
    configuration: str
    order: int = 50
    file: str | None = None
    note: str = ""

    @property
    def dialects(self) -> list[str]:
        return list(dict.fromkeys(dialect for spoken in self.speaks.values() for dialect in spoken))

    def configured(self, server: Server) -> str:
        """The configuration for this server. Raises KeyError for a place that nobody fills."""
        answer = server.window // ANSWER_SHARE
        values = {
            "origin": server.origin,
            "model": json.dumps(server.model)[1:-1],
            "key": server.key,
            "window": str(server.window),
            "answer": str(answer),
            "prompt": str(server.window - answer),
        }
        return _PLACE.sub(lambda place: values[place[1]], self.configuration)
