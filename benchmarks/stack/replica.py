"""The product's replica with ranks that answer from a table. They load no model, and no PyTorch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.stack.engine import BLOCK_SIZE, KV_BLOCKS, TableEngine
from benchmarks.stack.table import Table
from deployments.replica.group import RankProcess
from deployments.replica.replica import EngineReplica
from model.config import EngineConfig
from model.process.loop import EngineLoop
from model.text.tokenizer import Tokenizer


class TableRank(RankProcess):
    """One rank as a Ray actor, as the real one is."""

    def __init__(
        self, config: EngineConfig, rank: int, size: int, configure_logs: Callable[..., None] | None = None
    ) -> None:
        if configure_logs is not None:
            configure_logs(rank=rank)
        self._config = config
        self._loaded = 1.0

    def listen(self) -> tuple[int, str]:
        return os.getpid(), ""

    def load(self, address: str) -> dict[str, Any]:
        started_at = time.monotonic()
        tokenizer = Tokenizer.from_checkpoint(Path(self._config.model))
        # the end of text behind it: whoever does not ignore that comes to an end there
        ids = [*Table.read(tokenizer).ids, tokenizer.eos_id]
        self._engine = TableEngine(ids, tokenizer.eos_id, self._config.max_num_seqs)
        return {
            "rank": 0,
            "device": "cpu",
            "dtype": "float32",
            "parameter_bytes": 0,
            "load_seconds": time.monotonic() - started_at,
            "num_kv_blocks": KV_BLOCKS,
            "kv_cache_bytes": 0,
            "block_size": BLOCK_SIZE,
            "max_model_len": self._config.max_model_len or 2048,
            "forward": {"path": "torch", "reason": "answers come from a table"},
        }

    def run(self, socket_path: str) -> None:
        EngineLoop(self._engine, socket_path, [0]).run()


class TableReplica(EngineReplica):
    rank_class = TableRank
