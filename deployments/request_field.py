"""A field of request bodies that something declares for itself, and bodies that have such fields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, create_model

Value = TypeVar("Value")
Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True, eq=False)
class RequestField(Generic[Value]):
    """name: in the body. type: what pydantic takes there. info: from `pydantic.Field`, with the description."""

    name: str
    type: Any
    info: Any

    def of(self, body: BaseModel) -> Value:
        """What a body says in it."""
        return cast(Value, getattr(body, self.name))


def with_fields(base: type[Body], name: str, fields: Iterable[RequestField[Any]]) -> type[Body]:
    """A model of request bodies that has these fields too. Raises ValueError where two fields have one name."""
    definitions: dict[str, Any] = {}
    for field in fields:
        if field.name in base.model_fields or field.name in definitions:
            raise ValueError(f"two fields of request bodies are called {field.name!r}")
        definitions[field.name] = field.type, field.info
    return create_model(name, __base__=base, **definitions)
