"""Bodies made from the app's own OpenAPI document: for each field that takes a text, one that holds a given one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def posts(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The schema of each body, by path."""
    bodies = {
        path: methods["post"].get("requestBody") for path, methods in document["paths"].items() if "post" in methods
    }
    return {path: body["content"]["application/json"]["schema"] for path, body in bodies.items() if body}


def with_text(schema: dict[str, Any], text: str, document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A field's name, dots and all, and what fits the schema with `text` in that field, as far as it may be long."""
    schema = _resolved(schema, document)
    for alternative in schema.get("anyOf", schema.get("oneOf", ())):
        yield from with_text(alternative, text, document)
    kind = schema.get("type")
    if kind == "string" and not {"enum", "const"} & schema.keys():
        yield "", text[: schema.get("maxLength")]
    elif kind == "array":
        for name, value in with_text(schema.get("items", {}), text, document):
            yield f"[]{name}", [value]
    elif kind == "object":
        rest = _least(schema, document)
        for field, of_field in schema.get("properties", {}).items():
            for name, value in with_text(of_field, text, document):
                yield f".{field}{name}", {**rest, field: value}


def _least(schema: dict[str, Any], document: dict[str, Any]) -> Any:
    """The least that fits."""
    schema = _resolved(schema, document)
    for alternative in schema.get("anyOf", schema.get("oneOf", ()))[:1]:
        return _least(alternative, document)
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {name: _least(properties[name], document) for name in schema.get("required", ())}
        case "array":
            return [_least(schema["items"], document)] * schema.get("minItems", 0)
        case "string":
            return "x"
        case kind:
            return 1 if kind in ("integer", "number") else None


def _resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    if (reference := schema.get("$ref")) is None:
        return schema
    resolved: dict[str, Any] = document["components"]["schemas"][reference.rpartition("/")[2]]
    return resolved
