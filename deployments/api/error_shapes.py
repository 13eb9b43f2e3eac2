"""In whose shape a request fails that reaches no route: the path says whose client sent it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.routing import BaseRoute, Route

from deployments.api.common.dialect import Dialect
from deployments.http.middleware import ErrorShape, openai_error


class ErrorShapes:
    """From a method and a path to the shape of the dialect that has them; OpenAI's for what is nobody's.

    With another method a path is its dialect's still. A path that no dialect has belongs to the one that alone has its
    first segment: `/api/chat` is Ollama's.
    """

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._by_path: list[tuple[re.Pattern[str], set[str], ErrorShape]] = []
        self._by_segment: dict[str, ErrorShape] = {}
        for route in routes:
            if not isinstance(route, Route):
                continue
            dialect: Dialect | None = getattr(route, "dialect", None)
            shape = dialect.error_shape if dialect else openai_error
            # Pages share `/` with a dialect, and take no other methods away from it.
            methods = (route.methods or set()) | ({"*"} if dialect else set())
            self._by_path.append((route.path_regex, methods, shape))
            if segment := _first_segment(route.path):
                shared = self._by_segment.setdefault(segment, shape)
                if shared is not shape:
                    self._by_segment[segment] = openai_error

    def __call__(self, method: str, path: str) -> ErrorShape:
        found = [(methods, shape) for pattern, methods, shape in self._by_path if pattern.fullmatch(path)]
        for wanted in (method, "*"):
            for methods, shape in found:
                if wanted in methods:
                    return shape
        return self._by_segment.get(_first_segment(path), openai_error)


def _first_segment(path: str) -> str:
    return path.lstrip("/").partition("/")[0]
