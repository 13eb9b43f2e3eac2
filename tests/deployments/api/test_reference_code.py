"""The reference of a small document: where its routes stand, and the code that is written for them."""

from __future__ import annotations

import ast
import copy
import json
from typing import Any

import pytest

from deployments.api.common.dialect import Dialect
from deployments.api.common.examples import HERE, SERVED_MODEL, TITLED
from deployments.api.common.section import CHAT, COMPLETIONS, MODELS, OPERATIONS
from deployments.api.reference.arrangement import arrange
from deployments.api.reference.call import Call, calls_of
from deployments.api.reference.samples import LANGUAGES

DIALECTS = {"zeta": Dialect("zeta", "Zeta"), "alpha": Dialect("alpha", "alpha"), "none": Dialect("none", "")}


def reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def route(*tags: str, summary: str = "Do it", **fields: Any) -> dict[str, Any]:
    responses = {"200": {"content": {"application/json": {}}}}
    return {"summary": summary, "responses": responses, **({"tags": [*tags]} if tags else {}), **fields}


def sending(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


DOCUMENT: dict[str, Any] = {
    "paths": {
        "/untagged": {"get": route()},
        "/health": {"get": route(OPERATIONS.name)},
        "/zeta": {"post": route("Zeta", **sending(reference("Plain")))},
        "/own": {"delete": route("mine")},
        "/alpha": {"get": route("alpha"), "post": route("Zeta", **sending({"type": "object"}))},
        "/models/{id}": {
            "get": route(
                MODELS.name,
                parameters=[
                    {"name": "id", "in": "path", "schema": {"examples": ["a/b", "c"]}},
                    {"name": "limit", "in": "query", "schema": {"examples": [5]}},
                    {"name": "after", "in": "query", "schema": {}},
                    {"name": "x-id", "in": "header", "schema": {"examples": ["h"]}},
                ],
            )
        },
        "/chat": {"post": route(CHAT.name, **sending(reference("Chat")))},
        "/complete": {
            "post": route(COMPLETIONS.name, **sending({"oneOf": [reference("Chat"), reference("More"), {}]}))
        },
    },
    "components": {
        "schemas": {
            "Plain": {"properties": {"x": {}}},
            "Chat": {
                "properties": {"a": {"n": 1}, "b": {"n": 2}, "c": {"n": 3}},
                TITLED: [["First", '{"c": 1, "stream": true}'], ["Second", '{"b": 2, "c": 3}']],
            },
            "More": {"properties": {"d": {}}, TITLED: [["Third", '{"d": 4}']]},
        }
    },
}


def is_public(method: str, path: str) -> bool:
    return (method, path) in (("GET", "/health"), ("GET", "/models/a%2Fb"))


@pytest.fixture
def arranged() -> dict[str, Any]:
    document = copy.deepcopy(DOCUMENT)
    assert arrange(document, DIALECTS, is_public) is document
    return document


def test_sections_stand_in_their_order(arranged: dict[str, Any]) -> None:
    assert arranged["tags"] == [
        {"name": COMPLETIONS.name, "description": COMPLETIONS.text},
        {"name": CHAT.name, "description": CHAT.text},
        {"name": "alpha", "description": "For clients of alpha."},
        {"name": "mine", "description": ""},
        {"name": "Zeta", "description": "For clients of Zeta."},
        {"name": MODELS.name, "description": MODELS.text},
        {"name": OPERATIONS.name, "description": OPERATIONS.text},
    ]
    paths = ["/complete", "/chat", "/alpha", "/own", "/zeta", "/models/{id}", "/health", "/untagged"]
    assert list(arranged["paths"]) == paths
    assert arranged["x-placeholders"] == {"here": HERE, "model": SERVED_MODEL}


def test_examples_stand_at_the_route_and_at_the_schema(arranged: dict[str, Any]) -> None:
    schemas = arranged["components"]["schemas"]
    assert schemas["Plain"] == {"properties": {"x": {}}}
    assert schemas["Chat"]["examples"] == [{"c": 1, "stream": True}, {"b": 2, "c": 3}]
    assert list(schemas["Chat"]["properties"].items()) == [("c", {"n": 3}), ("b", {"n": 2}), ("a", {"n": 1})]
    assert TITLED not in json.dumps(arranged)

    def examples(path: str) -> Any:
        return arranged["paths"][path]["post"]["requestBody"]["content"]["application/json"].get("examples")

    chat = {"First": {"value": {"c": 1, "stream": True}}, "Second": {"value": {"b": 2, "c": 3}}}
    assert examples("/chat") == chat
    assert examples("/complete") == {**chat, "Third": {"value": {"d": 4}}}
    assert examples("/zeta") is examples("/alpha") is None
    path, limit, after, header = arranged["paths"]["/models/{id}"]["get"]["parameters"]
    assert (path["example"], limit["example"], header["example"], "example" in after) == ("a/b", 5, "h", False)


def test_every_example_is_written_in_every_language(arranged: dict[str, Any]) -> None:
    def samples(method: str, path: str) -> list[tuple[str, str, str]]:
        listed = arranged["paths"][path][method]["x-codeSamples"]
        return [(sample["lang"], sample["label"], sample["x-example"]) for sample in listed]

    languages = [("Shell", "curl"), ("Python", "Python"), ("JavaScript", "JavaScript")]
    assert samples("post", "/chat") == [(*one, title) for title in ("First", "Second") for one in languages]
    assert samples("get", "/health") == [(*one, "Do it") for one in languages]
    assert samples("post", "/zeta") == samples("post", "/alpha") == []
    for path, needs_key in (("/health", False), ("/models/{id}", False), ("/untagged", True)):
        for sample in arranged["paths"][path]["get"]["x-codeSamples"]:
            assert ("STARCODER_API_KEY" in sample["source"]) == needs_key
    (curl, *_) = arranged["paths"]["/models/{id}"]["get"]["x-codeSamples"]
    assert curl["source"] == f"curl '{HERE}/models/a%2Fb?limit=5'"


def test_what_streams_answers_no_json() -> None:
    body = {"content": {"application/json": {"examples": {"a": {"value": {"stream": True}}, "b": {"value": {}}}}}}
    for content, expected in (
        ({"application/json": {}}, [True, True]),  # it has no streams, whatever its field is called
        ({"application/json": {}, "text/event-stream": {}}, [False, True]),
        ({"text/event-stream": {}}, [False, False]),
        ({}, [False, False]),
    ):
        operation = {"summary": "s", "requestBody": body, "responses": {"200": {"content": content}}}
        calls = list(calls_of("POST", "/x", operation, is_public))
        assert [call.answers_json for call in calls] == expected
        assert [(call.title, call.method, call.url) for call in calls] == [
            ("a", "POST", f"{HERE}/x"),
            ("b", "POST", f"{HERE}/x"),
        ]
        assert [call.body for call in calls] == [{"stream": True}, {}]
        assert [call.needs_key for call in calls] == [True, True]
    (only,) = calls_of("GET", "/x", {"summary": "s", "responses": {"404": {}}}, is_public)
    assert only == Call("s", "GET", f"{HERE}/x", True, None, False)


GET = Call("t", "GET", "http://h/a?b=1", False, None, False)
KEYED = Call("t", "GET", "http://h/a?b=1", True, None, True)
DELETE = Call("t", "DELETE", "http://h/a", True, None, True)
EMPTY = Call("t", "POST", "http://h/a", False, None, True)
POST = Call("t", "POST", "http://h/a", True, {"it's": [1, None, True, "\u6f22\n"], "e": {}, "l": []}, True)

SOURCES = {
    "curl": {
        "GET": "curl 'http://h/a?b=1'",
        "KEYED": "curl 'http://h/a?b=1' \\\n  -H \"authorization: Bearer ${STARCODER_API_KEY:-unused}\"",
        "DELETE": 'curl -X DELETE http://h/a \\\n  -H "authorization: Bearer ${STARCODER_API_KEY:-unused}"',
        "EMPTY": "curl -X POST http://h/a",
        "POST": """\
curl http://h/a \\
  -H "authorization: Bearer ${STARCODER_API_KEY:-unused}" \\
  -H 'content-type: application/json' \\
  -d '{
  "it'"'"'s": [
    1,
    null,
    true,
    "\u6f22\\n"
  ],
  "e": {},
  "l": []
}'""",
    },
    "Python": {
        "GET": """\
import httpx

answer = httpx.get("http://h/a?b=1", timeout=60)
answer.raise_for_status()
print(answer.text)""",
        "KEYED": """\
import os

import httpx

key = os.environ.get("STARCODER_API_KEY", "unused")
answer = httpx.get(
    "http://h/a?b=1",
    headers={"authorization": f"Bearer {key}"},
    timeout=60,
)
answer.raise_for_status()
print(answer.json())""",
        "EMPTY": """\
import httpx

answer = httpx.post("http://h/a", timeout=60)
answer.raise_for_status()
print(answer.json())""",
        "POST": """\
import os

import httpx

key = os.environ.get("STARCODER_API_KEY", "unused")
answer = httpx.post(
    "http://h/a",
    headers={"authorization": f"Bearer {key}"},
    json={
        "it's": [
            1,
            None,
            True,
            "\u6f22\\n",
        ],
        "e": {},
        "l": [],
    },
    timeout=60,
)
answer.raise_for_status()
print(answer.json())""",
    },
    "JavaScript": {
        "GET": """\
const answer = await fetch("http://h/a?b=1");
if (!answer.ok) throw new Error(await answer.text());
console.log(await answer.text());""",
        "KEYED": """\
const key = process.env.STARCODER_API_KEY ?? "unused";
const answer = await fetch("http://h/a?b=1", {
  headers: { authorization: `Bearer ${key}` },
});
if (!answer.ok) throw new Error(await answer.text());
console.log(await answer.json());""",
        "EMPTY": """\
const answer = await fetch("http://h/a", {
  method: "POST",
});
if (!answer.ok) throw new Error(await answer.text());
console.log(await answer.json());""",
        "POST": """\
const key = process.env.STARCODER_API_KEY ?? "unused";
const answer = await fetch("http://h/a", {
  method: "POST",
  headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
  body: JSON.stringify({
    "it's": [
      1,
      null,
      true,
      "\u6f22\\n"
    ],
    "e": {},
    "l": []
  }),
});
if (!answer.ok) throw new Error(await answer.text());
console.log(await answer.json());""",
    },
}
CALLS = {"GET": GET, "KEYED": KEYED, "DELETE": DELETE, "EMPTY": EMPTY, "POST": POST}


@pytest.mark.parametrize(("language", "name"), [(one, name) for one, calls in SOURCES.items() for name in calls])
def test_code_is_as_people_write_it(language: str, name: str) -> None:
    (found,) = (one for one in LANGUAGES if one.name == language)
    source = found.write(CALLS[name])
    assert source == SOURCES[language][name]
    if language == "Python":
        ast.parse(source)
