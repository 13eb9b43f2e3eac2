"""Options of a command line, made of what settings declare, and what was given by them."""

from __future__ import annotations

import argparse
from collections.abc import Container, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from deployments.options import OptionParser
from deployments.written_as import WrittenAs

_METAVARS = {int: "N", float: "X", Decimal: "USD", Path: "PATH"}
_UNITS = {"_s": "SECONDS", "_hours": "HOURS"}


def declared(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Every setting by its name; those within another as `api.max_fan_out`."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from ((f"{name}.{inner}", one) for inner, one in declared(field.annotation))
        else:
            yield name, field


def add_options(
    parser: OptionParser, model: type[BaseModel], subjects: Mapping[str, str], only: Container[str] | None = None
) -> None:
    """An option for each setting. subjects: title of each group of settings, by the one that it begins with.

    only: names of those that get one; None: all.
    """
    group: argparse._ArgumentGroup | OptionParser = parser
    seen = ""
    for name, field in declared(model):
        outer = name.partition(".")[0]
        if only is not None and outer not in only:
            continue
        if outer != seen and outer in subjects:
            group = parser.add_argument_group(subjects[outer])
        seen = outer
        _add(group, name, field)


def given(options: argparse.Namespace) -> dict[str, Any]:
    """What was said, for the settings' model: the values as they were typed."""
    values: dict[str, Any] = {}
    for name, value in vars(options).items():
        outer, dot, inner = name.partition(".")
        if dot:
            values.setdefault(outer, {})[inner] = value
        else:
            values[name] = value
    return values


def _add(group: argparse._ArgumentGroup | OptionParser, name: str, field: FieldInfo) -> None:
    option = f"--{name.replace('_', '-')}"
    types, written = _types(field.annotation), _written(field)
    help = f"{field.description}{_default(field, written)}".replace("%", "%%")
    if bool in types:
        action = argparse.BooleanOptionalAction
        group.add_argument(option, action=action, dest=name, default=argparse.SUPPRESS, help=help)
        return
    choices = [str(choice) for one in types if get_origin(one) is Literal for choice in get_args(one)]
    metavar = written.metavar if written else _metavar(name, types)
    group.add_argument(
        option,
        dest=name,
        default=argparse.SUPPRESS,
        help=help,
        choices=choices or None,
        metavar=None if choices else metavar,
    )


def _types(annotation: Any) -> list[Any]:
    """The types that a value may have, without None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _types(get_args(annotation)[0])
    if origin is None or origin in (Literal, tuple):
        return [] if annotation is type(None) else [annotation]
    return [one for part in get_args(annotation) for one in _types(part)]


def _written(field: FieldInfo) -> WrittenAs | None:
    within = [beside for part in get_args(field.annotation) for beside in getattr(part, "__metadata__", ())]
    return next((beside for beside in (*field.metadata, *within) if isinstance(beside, WrittenAs)), None)


def _metavar(name: str, types: list[Any]) -> str:
    unit = next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), None)
    return unit or _METAVARS.get(types[0]) or name.replace(".", "_").rpartition("_")[2].upper()


def _default(field: FieldInfo, written: WrittenAs | None) -> str:
    """The default for people; nothing where it is made at the start, as the description says then."""
    value = field.default
    if value in (None, "", ()) or value is PydanticUndefined:
        return ""
    if isinstance(value, bool):
        return f" (default: {'on' if value else 'off'})"
    shown = f"{value:g}" if isinstance(value, float) else (written.shown if written else str)(value)
    return f" (default: {shown})"
