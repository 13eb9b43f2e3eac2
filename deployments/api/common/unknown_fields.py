"""Fields of a body that its route does not have: the client is told of them, and so is the log, once a name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import islice
from typing import Any, NamedTuple

import msgspec
from pydantic import BaseModel
from starlette.responses import Response

from deployments.api.common.sampling import DialectModel
from deployments.spelling import did_you_mean
from monitoring import logs

HEADER = "x-warnings"
MOST_TOLD = 4
"""Of one request."""

MOST_LOGGED = 256
"""Names in the log of one process."""

_NAME_CHARACTERS = 32
_NAME = re.compile(rf"[\w.-]{{1,{_NAME_CHARACTERS}}}", re.ASCII)
"""What a longer or stranger key holds may be a user's text: it is neither compared nor logged."""

_logged: set[tuple[str, str]] = set()


class UnknownField(NamedTuple):
    """within: where it is, as `options.`. model: of which it is no field."""

    within: str
    name: str
    model: type[BaseModel]

    @property
    def is_plain(self) -> bool:
        return _NAME.fullmatch(self.name) is not None

    def __str__(self) -> str:
        if not self.is_plain:
            return f"there is no field {self.within}{self.name[:_NAME_CHARACTERS]!a}"
        return f"there is no field {self.within}{self.name}{_nearest(self.name, self.model)}"


def unknown_fields(sent: Any, body: Any) -> list[UnknownField]:
    """The first few. sent: a value of JSON. body: what it became."""
    return [*islice(_unknown(sent, body), MOST_TOLD)] if isinstance(sent, dict) and isinstance(body, BaseModel) else []


def log_once(path: str, found: Sequence[UnknownField]) -> None:
    """path: of the route."""
    for field in found:
        key = path, field.within + field.name
        if field.is_plain and key not in _logged and len(_logged) < MOST_LOGGED:
            _logged.add(key)
            logs.event("request.unknown_field", path=path, field=field.within + field.name)


def tell(response: Response, found: Sequence[UnknownField]) -> None:
    """In the header; and in the answer, where that is one JSON object."""
    told = [str(field) for field in found]
    response.headers[HEADER] = "; ".join(told)
    # A stream has no body yet.
    body = getattr(response, "body", b"")
    if response.status_code == 200 and response.media_type == "application/json" and body.startswith(b'{"'):
        response.body = body[:-1] + b',"warnings":' + msgspec.json.encode(told) + b"}"
        response.headers["content-length"] = str(len(response.body))


def _unknown(sent: Mapping[str, Any], body: BaseModel, within: str = "") -> Iterator[UnknownField]:
    attributes = _attributes(type(body))
    passed_over = body.passed_over if isinstance(body, DialectModel) else frozenset()
    for name, value in sent.items():
        if name not in attributes:
            if value is not None and name not in passed_over:  # null asks for nothing
                yield UnknownField(within, name, type(body))
        elif isinstance(value, dict) and isinstance(inner := getattr(body, attributes[name]), BaseModel):
            yield from _unknown(value, inner, f"{within}{name}.")


@cache
def _attributes(model: type[BaseModel]) -> dict[str, str]:
    """The attribute that holds a field, by what bodies call it."""
    return {field.alias or name: name for name, field in model.model_fields.items()}


@lru_cache(maxsize=1024)
def _nearest(name: str, model: type[BaseModel]) -> str:
    return did_you_mean(name, _attributes(model))
