"""A call as code to copy: curl, Python and JavaScript.

The key comes from the environment. A server that has no keys looks at none, so `unused` does there.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deployments.api.reference.call import Call

KEY_VARIABLE = "STARCODER_API_KEY"

_IN_ONE_LINE = 2
"""Arguments."""


@dataclass(frozen=True)
class Language:
    """name: for people. highlighting: what renderers know it by. write: a program of it that makes a call."""

    name: str
    highlighting: str
    write: Callable[[Call], str]


def _curl(call: Call) -> str:
    parts = [f"curl {shlex.quote(call.url)}"]
    if call.method not in ("GET", "POST") or (call.method == "POST" and call.body is None):
        parts[0] = f"curl -X {call.method} {shlex.quote(call.url)}"
    if call.needs_key:
        parts.append(f'-H "authorization: Bearer ${{{KEY_VARIABLE}:-unused}}"')
    if call.body is not None:
        parts.append("-H 'content-type: application/json'")
        parts.append(f"-d {shlex.quote(_json(call.body))}")
    return " \\\n  ".join(parts)


def _python(call: Call) -> str:
    key = f'key = os.environ.get("{KEY_VARIABLE}", "unused")\n' if call.needs_key else ""
    arguments = [json.dumps(call.url)]
    if call.needs_key:
        arguments.append('headers={"authorization": f"Bearer {key}"}')
    if call.body is not None:
        arguments.append(f"json={_python_literal(call.body, 4)}")
    arguments.append("timeout=60")
    listed = ", ".join(arguments)
    if len(arguments) > _IN_ONE_LINE:
        listed = "\n" + "".join(f"    {argument},\n" for argument in arguments)
    shown = "answer.json()" if call.answers_json else "answer.text"
    return (
        f"{'import os' if key else ''}\n\nimport httpx\n\n{key}answer = httpx.{call.method.lower()}({listed})\n"
        f"answer.raise_for_status()\nprint({shown})"
    ).lstrip()


def _javascript(call: Call) -> str:
    key = f'const key = process.env.{KEY_VARIABLE} ?? "unused";\n' if call.needs_key else ""
    headers = ["authorization: `Bearer ${key}`"] if call.needs_key else []
    options = [] if call.method == "GET" else [f"method: {json.dumps(call.method)}"]
    if call.body is not None:
        headers.append('"content-type": "application/json"')
    if headers:
        options.append(f"headers: {{ {', '.join(headers)} }}")
    if call.body is not None:
        body = _json(call.body).replace("\n", "\n  ")
        options.append(f"body: JSON.stringify({body})")
    listed = "".join(f"  {option},\n" for option in options)
    sent = f"{json.dumps(call.url)}, {{\n{listed}}}" if options else json.dumps(call.url)
    return (
        f"{key}const answer = await fetch({sent});\nif (!answer.ok) throw new Error(await answer.text());\n"
        f"console.log(await answer.{'json' if call.answers_json else 'text'}());"
    )


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _python_literal(value: Any, indent: int) -> str:
    """As formatters write it: a line an entry. Strings of JSON are strings of Python."""
    inner, outer = " " * (indent + 4), " " * indent
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict) and value:
        entries = "".join(
            f"{inner}{json.dumps(key)}: {_python_literal(entry, indent + 4)},\n" for key, entry in value.items()
        )
        return f"{{\n{entries}{outer}}}"
    if isinstance(value, list) and value:
        entries = "".join(f"{inner}{_python_literal(entry, indent + 4)},\n" for entry in value)
        return f"[\n{entries}{outer}]"
    return repr(value)


LANGUAGES = (
    Language("curl", "Shell", _curl),
    Language("Python", "Python", _python),
    Language("JavaScript", "JavaScript", _javascript),
)
