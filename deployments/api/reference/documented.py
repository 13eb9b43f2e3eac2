"""The app whose `/openapi.json` is the reference."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from deployments.api.reference.arrangement import Document, arrange
from deployments.api.registry import dialects
from deployments.http.needs import Needs


class DocumentedApp(FastAPI):
    """needs: of its routes. of_fastapi: FastAPI's own settings."""

    def __init__(self, needs: Needs, **of_fastapi: Any) -> None:
        super().__init__(**of_fastapi)
        self._needs = needs

    def openapi(self) -> Document:
        if self.openapi_schema is None:
            self.openapi_schema = arrange(super().openapi(), dialects(), self._is_public)
        return self.openapi_schema

    def _is_public(self, method: str, path: str) -> bool:
        return self._needs(method, path) == "public"
