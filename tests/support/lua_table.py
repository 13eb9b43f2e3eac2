"""Reads the one table that a plugin of Neovim is set up with, without a Lua interpreter.

Enough of Lua for configurations: tables of named fields and of values, strings in double quotes, numbers, booleans, and
functions that do nothing but return a string, which are read as that string.
"""

from __future__ import annotations

import json
import re
from typing import Any

_TOKEN = re.compile(
    r'\s*(?:(?P<function>function\(\) return "(?P<returned>[^"\\]*)" end)|(?P<name>[A-Za-z_]\w*)(?=\s*=)'
    r'|(?P<value>"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true\b|false\b)|(?P<sign>[{}=,]))'
)


def setup_of(script: str, plugin: str) -> dict[str, Any]:
    """What `require("plugin").setup` is called with. Raises ValueError for what is no such call."""
    call = re.fullmatch(rf'require\("{re.escape(plugin)}"\)\.setup\((.*)\)\s*', script, re.DOTALL)
    if call is None:
        raise ValueError(f"no setup of {plugin}: {script!r}")
    return json.loads(_as_json(call[1]))


def _as_json(table: str) -> str:
    """A table whose values are all named becomes an object, any other an array."""
    tokens, at = [], 0
    while table[at:].strip():
        token = _TOKEN.match(table, at)
        if token is None:
            raise ValueError(f"not understood: {table[at : at + 40]!r}")
        tokens.append(token)
        at = token.end()
    written, open_tables = [], []
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        sign = token["sign"]
        if sign == "{":
            open_tables.append("}" if following is not None and following["name"] else "]")
            written.append("{" if open_tables[-1] == "}" else "[")
        elif sign == "}":
            written.append(open_tables.pop())
        elif sign == ",":
            written.append("" if following is not None and following["sign"] == "}" else ",")
        elif sign == "=":
            written.append(":")
        else:
            named = token["returned"] if token["function"] else token["name"]
            written.append(json.dumps(named) if named is not None else token["value"])
    return "".join(written)
