"""The configurations that are documented, for the server that a test runs, as the client reads them."""

from __future__ import annotations

import ast
import json
import shlex
from typing import Any

import yaml

from deployments.clients.client import Server
from deployments.clients.registry import clients
from tests.support.fake_backend import MODEL
from tests.support.lua_table import setup_of

KEY = "sk-sc-of-a-team"
WINDOW = 1024
"""Room for the introduction of the plain dialogue."""


def configuration(name: str, url: str, model: str = MODEL) -> str:
    return clients()[name].configured(Server(url, model, WINDOW, KEY))


def python_command(name: str, url: str, model: str = MODEL) -> tuple[dict[str, str], list[str]]:
    """A shell's `NAME=value ... python ARGUMENT ...`: what it sets, and the arguments."""
    words = shlex.split(configuration(name, url, model).replace("\\\n", " "))
    python = words.index("python")
    return dict(word.split("=", 1) for word in words[:python]), words[python + 1 :]


def settings(name: str, url: str) -> dict[str, Any]:
    """VS Code's `settings.json`."""
    return json.loads(configuration(name, url))


def neovim(name: str, plugin: str, url: str) -> dict[str, Any]:
    return setup_of(configuration(name, url), plugin)


def vim(name: str, variable: str, url: str) -> dict[str, str]:
    """A dictionary of strings; lines that begin with a backslash go on with the one before."""
    text = configuration(name, url).replace("\n    \\ ", " ")
    assignment, _, dictionary = text.partition(" = ")
    assert assignment == f"let {variable}"
    return ast.literal_eval(dictionary.strip())


def models(name: str, url: str) -> dict[str, dict[str, Any]]:
    """Continue's, by provider."""
    return {model["provider"]: model for model in yaml.safe_load(configuration(name, url))["models"]}
