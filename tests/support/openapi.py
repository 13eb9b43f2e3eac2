"""Objects against a CustomResourceDefinition's schema, as the API server checks them: types, and no unknown field."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml


@cache
def schema_of(file: Path, version: str) -> dict[str, Any]:
    # In C where PyYAML has it: KubeRay's definition is a megabyte.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load(file.read_text(), Loader=loader)
    found = next(v for v in definition["spec"]["versions"] if v["name"] == version)
    return _json_schema(found["schema"]["openAPIV3Schema"])


def problems(document: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """Everything that is wrong, with its path."""
    errors = jsonschema.Draft7Validator(schema).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in errors] + list(_unknown(document, schema, "$"))


def _json_schema(schema: Any) -> Any:
    """OpenAPI's own words in JSON Schema's."""
    if isinstance(schema, list):
        return [_json_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {key: _json_schema(value) for key, value in schema.items()}
    if converted.pop("x-kubernetes-int-or-string", False):
        converted.pop("type", None)
        converted["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if converted.get("nullable") is True and isinstance(converted.get("type"), str):
        converted["type"] = [converted["type"], "null"]
    return converted


def _unknown(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(item, schema.get("items", {}), f"{path}[{index}]")
        return
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    properties, others = schema.get("properties"), schema.get("additionalProperties")
    if properties is None and others is None:
        return  # metadata, for example: the API server's own types
    for key, item in value.items():
        if properties and key in properties:
            yield from _unknown(item, properties[key], f"{path}.{key}")
        elif isinstance(others, dict):
            yield from _unknown(item, others, f"{path}.{key}")
        elif not others:
            yield f"{path}.{key}: no such field"
