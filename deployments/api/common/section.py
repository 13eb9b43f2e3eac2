"""Sections of the reference at `/docs`. A route's tag says in which one it stands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """name: the tag. text: what its routes have in common, in Markdown."""

    name: str
    text: str


COMPLETIONS = Section(
    "Completions", "Code after a prompt, or in the gap before a `suffix`: OpenAI's route, with fields that know code."
)
INFILLING = Section("Fill in the middle", "What is missing at a cursor, as editors of Mistral's and DeepSeek's ask.")
CHAT = Section(
    "Chat and editing",
    "Conversations, and code changed as an instruction says. The embedded models have seen neither conversations "
    "nor commits: they answer, but not to the point.",
)
MODELS = Section("Models", "What is served here.")
OPERATIONS = Section("Operations", "For whoever runs the server.")
ADMINISTRATION = Section(
    "Administration",
    "Teams, keys, people, limits, usage and prices, as in OpenAI's administration API: a project is a team. "
    "They need a key, or somebody who has signed in; most of them an administrator's.",
)

FIRST = (COMPLETIONS, INFILLING, CHAT)
LAST = (MODELS, OPERATIONS, ADMINISTRATION)
"""Between them stand the dialects of other servers, each under its own name."""
