"""What a route asks of its caller, once keys exist: mostly what its method says, else what its endpoint declares."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeVar

from starlette.routing import BaseRoute, Route

from deployments.teams.records import Scope

Need = Scope | Literal["public", "key"]
"""A scope that the key must have; `key`: any key will do; `public`: nobody is asked."""

_DECLARED: Final = "__starcoder_need__"

EndpointT = TypeVar("EndpointT", bound=Callable[..., object])


def needs(need: Need) -> Callable[[EndpointT], EndpointT]:
    """Declares it of an endpoint; stands below the route's decorator."""

    def declare(endpoint: EndpointT) -> EndpointT:
        setattr(endpoint, _DECLARED, need)
        return endpoint

    return declare


public = needs("public")


class Needs:
    """From a method and a path to what is needed. What is no route needs a key: strangers learn nothing of it."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._exact: dict[tuple[str, str], Need] = {}
        self._patterns: list[tuple[re.Pattern[str], str, Need]] = []
        for route in routes:
            if not isinstance(route, Route):
                continue
            for method in route.methods or ():
                need = getattr(route.endpoint, _DECLARED, None) or _by_method(method)
                self._patterns.append((route.path_regex, method, need))
                if not route.param_convertors:
                    self._exact.setdefault((method, route.path), need)

    def __call__(self, method: str, path: str) -> Need:
        method = "GET" if method == "HEAD" else method
        if (need := self._exact.get((method, path))) is not None:
            return need
        # As Starlette does it: a pattern of its that ends in `$` takes a newline more than `fullmatch` would.
        found = (need for pattern, known, need in self._patterns if known == method and pattern.match(path))
        return next(found, "key")


def _by_method(method: str) -> Need:
    return "key" if method in ("GET", "HEAD") else "generate"
