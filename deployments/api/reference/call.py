"""One request of an example: what a program sends, in whatever language it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from deployments.api.common.examples import HERE


@dataclass(frozen=True)
class Call:
    """title: what it does. needs_key: whether a server with keys asks for one. body: None: there is none.

    answers_json: whether the answer, not streamed, is one JSON value.
    """

    title: str
    method: str
    url: str
    needs_key: bool
    body: Any
    answers_json: bool


def calls_of(
    method: str, path: str, operation: dict[str, Any], is_public: Callable[[str, str], bool]
) -> Iterator[Call]:
    """A call for each example of the operation's body; one if it has no body, none if that has no example."""
    target = _filled(path, operation.get("parameters", ()))
    needs_key = not is_public(method, target.partition("?")[0])
    answers = operation["responses"].get("200", {}).get("content", {}).keys()
    answers_json, streams = "application/json" in answers, len(answers) > 1
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        yield Call(operation["summary"], method, HERE + target, needs_key, None, answers_json)
        return
    for title, example in content.get("examples", {}).items():
        body = example["value"]
        yield Call(title, method, HERE + target, needs_key, body, answers_json and not (streams and body.get("stream")))


def _filled(path: str, parameters: Any) -> str:
    """The path with what is to stand in it, and what has to be in the query."""
    query = []
    for parameter in parameters:
        if "example" not in parameter:
            continue
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", quote(str(parameter["example"]), safe=""))
        elif parameter["in"] == "query":
            query.append((parameter["name"], parameter["example"]))
    return f"{path}?{urlencode(query)}" if query else path
