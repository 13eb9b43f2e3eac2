"""One engine of this machine as a backend of the ingress, without Ray."""

from __future__ import annotations

from deployments.labels import declared_labels
from deployments.protocol import ModelInfo
from deployments.replica.admission import Admission
from deployments.replica.service import EngineService
from model.process.client import EngineClient
from model.text.tokenizer import Tokenizer
from monitoring import ReplicaMetrics


class LocalBackend(EngineService):
    """Room for 64 sequences, and as many that wait."""

    def __init__(self, engine: EngineClient, tokenizer: Tokenizer, model: ModelInfo) -> None:
        super().__init__(engine, tokenizer, Admission(64, 64), 60, ReplicaMetrics(model.id, declared=declared_labels()))
        self._model = model

    async def info(self) -> ModelInfo:
        return self._model
