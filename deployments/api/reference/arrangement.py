"""The OpenAPI document as people read it: the first thing first, with examples, and each of them as code to copy.

Code stands in `x-codeSamples`, a word of Redoc's that other renderers know too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from deployments.api.common.dialect import Dialect
from deployments.api.common.examples import HERE, SERVED_MODEL, TITLED
from deployments.api.common.section import FIRST, LAST, Section
from deployments.api.reference.call import calls_of
from deployments.api.reference.samples import LANGUAGES

Document = dict[str, Any]

TITLE = "x-example"
"""Of a code sample: which of the route's examples it sends."""


def arrange(document: Document, dialects: Mapping[str, Dialect], is_public: Callable[[str, str], bool]) -> Document:
    """The same document. is_public: whether a method of a path needs no key."""
    _move_examples(document)
    sections = _sections(document, dialects)
    places = {section.name: place for place, section in enumerate(sections)}
    document["paths"] = dict(sorted(document["paths"].items(), key=lambda item: _place(item[1], places)))
    document["x-placeholders"] = {"here": HERE, "model": SERVED_MODEL}
    document["tags"] = [{"name": section.name, "description": section.text} for section in sections]
    for path, method, operation in _operations(document):
        operation["x-codeSamples"] = [
            {"lang": language.highlighting, "label": language.name, "source": language.write(call), TITLE: call.title}
            for call in calls_of(method, path, operation, is_public)
            for language in LANGUAGES
        ]
    return document


def _operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _sections(document: Document, dialects: Mapping[str, Dialect]) -> list[Section]:
    """In order; the tags that no section names are dialects' titles."""
    known = {section.name for section in (*FIRST, *LAST)}
    used = {tag for _, _, operation in _operations(document) for tag in operation.get("tags", ())}
    titles = {dialect.title for dialect in dialects.values()}
    others = [Section(tag, _of_others(tag, titles)) for tag in sorted(used - known, key=str.lower)]
    return [section for section in (*FIRST, *others, *LAST) if section.name in used]


def _of_others(tag: str, titles: set[str]) -> str:
    return f"For clients of {tag}." if tag in titles else ""


def _place(methods: Document, places: Mapping[str, int]) -> int:
    """Of a path; one without a tag comes last."""
    tags = [tag for operation in methods.values() for tag in operation.get("tags", ())]
    return min((places[tag] for tag in tags), default=len(places))


def _move_examples(document: Document) -> None:
    """From where bodies declare them to where OpenAPI has them: titled at the route, and in a list at the schema."""
    schemas: Document = document["components"]["schemas"]
    titled = {name: _bodies(schema.pop(TITLED)) for name, schema in schemas.items() if TITLED in schema}
    for name, of_schema in titled.items():
        schemas[name]["examples"] = list(of_schema.values())
        schemas[name]["properties"] = _as_needed(schemas[name]["properties"], of_schema.values())
    for _, _, operation in _operations(document):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            names = [reference.rpartition("/")[2] for reference in _references(content["schema"])]
            found = {title: {"value": body} for name in names for title, body in titled.get(name, {}).items()}
            if found:
                content["examples"] = found
        for parameter in operation.get("parameters", ()):
            if "examples" in parameter["schema"]:
                parameter["example"] = parameter["schema"]["examples"][0]


def _as_needed(properties: Document, bodies: Iterable[Document]) -> Document:
    """First what the examples have, in their order."""
    names = [name for body in bodies for name in body if name in properties]
    return {name: properties[name] for name in dict.fromkeys([*names, *properties])}


def _bodies(listed: list[tuple[str, str]]) -> Document:
    """By title."""
    return {title: json.loads(body) for title, body in listed}


def _references(schema: Document) -> list[str]:
    return [one["$ref"] for one in schema.get("oneOf", [schema]) if "$ref" in one]
