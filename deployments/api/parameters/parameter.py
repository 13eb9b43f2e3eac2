"""What a sampling parameter is: a field of `SamplingParams` that clients set, declared once for all dialects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar, Unpack, cast

import msgspec
from pydantic import BaseModel, Field

from deployments.limits import ApiLimits
from deployments.request_field import RequestField
from model.request import SamplingParams

Value = TypeVar("Value")

_ENGINE_FIELDS = {field.name: field for field in msgspec.structs.fields(SamplingParams)}


@dataclass(frozen=True)
class Bounds:
    """Of one request on this server, with this model."""

    max_tokens: int
    limits: ApiLimits
    vocab_size: int


class Own(TypedDict, total=False):
    """What a dialect has of its own: pydantic's arguments."""

    alias: str
    default: object
    ge: float
    gt: float
    le: float
    description: str


@dataclass(frozen=True, eq=False)
class Parameter(Generic[Value]):
    """name: of the field of `SamplingParams`, whose type and default are the body's. Raises KeyError where it has none.

    description: for the documentation; brief: where a dialect has the field in its own way. ge, le: its range.
    type: what pydantic takes instead of the engine's type.
    shared: every dialect has it under this name; False: each names it, and hands it to `SamplingFields.to_params`.
    check: raises InvalidRequestError where a value fits the schema, but not the bounds.
    translate: from a value to what changes in `SamplingParams`; None: the field of this name.
    """

    name: str
    description: str
    brief: str = ""
    ge: float | None = None
    le: float | None = None
    type: Any = None
    shared: bool = True
    check: Callable[[Value, Bounds], None] | None = None
    translate: Callable[[Value, Bounds], dict[str, object]] | None = None

    def __post_init__(self) -> None:
        _ENGINE_FIELDS[self.name]

    def request_field(self) -> RequestField[Value]:
        field = _ENGINE_FIELDS[self.name]
        info = Field(**self._default(), ge=self.ge, le=self.le, description=self.description)
        return RequestField(self.name, self.type or field.type, info)

    def field(self, **own: Unpack[Own]) -> Any:
        """A dialect's own field of it, which says what differs."""
        ge = None if "gt" in own else self.ge
        description = (own and self.brief) or self.description
        said = {**self._default(), "ge": ge, "le": self.le, "description": description}
        if "default" in own:
            said.pop("default_factory", None)
        return Field(**{**said, **own})

    def of(self, body: BaseModel) -> Value:
        """What a body says of it."""
        return cast(Value, getattr(body, self.name))

    def changes(self, value: Value, bounds: Bounds) -> dict[str, object]:
        """Of `SamplingParams`. Raises InvalidRequestError where a value is out of bounds."""
        if self.check is not None:
            self.check(value, bounds)
        return {self.name: value} if self.translate is None else self.translate(value, bounds)

    def _default(self) -> dict[str, Any]:
        field = _ENGINE_FIELDS[self.name]
        if field.default is msgspec.NODEFAULT:
            return {"default_factory": field.default_factory}
        if field.default == ():
            return {"default_factory": list}  # JSON knows no tuples
        return {"default": field.default}
