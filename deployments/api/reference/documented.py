"""The app whose OpenAPI document is the reference."""

from __future__ import annotations

from threading import Lock
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
        self._document: Document | None = None
        self._making = Lock()

    def openapi(self) -> Document:
        """Made once, in whichever thread comes first."""
        with self._making:
            if self._document is None:
                self._document = arrange(super().openapi(), dialects(), self._is_public)
            return self._document

    def _is_public(self, method: str, path: str) -> bool:
        return self._needs(method, path) == "public"
