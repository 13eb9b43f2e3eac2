"""Serve takes the scaling policy, and starts a second engine when prompts come faster than one computes them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


def test_load_starts_a_second_engine(tiny_checkpoint: Path, tmp_path: Path) -> None:
    options = ("--max-replicas", "2", "--dtype", "float32", "--num-threads", "1", "--upscale-delay-s", "0")
    aim = ("--target-queue-delay-s", "0.00001")  # which no engine reaches that has work: the tiny one is quick
    server = Cluster(tiny_checkpoint, tmp_path / "serve.txt", *options, *aim)
    with server.running():
        assert len(server.pids("RankProcess")) == 1
        enough = threading.Event()

        def ask(client: int) -> None:
            number = 0
            while not enough.is_set():
                number += 1
                prompt = [10 + client, 10 + number % 200, *range(20, 120)]
                body = {"prompt": prompt, "max_tokens": 2, "ignore_eos": True}
                assert httpx.post(f"{server.url}/v1/completions", json=body, timeout=120).status_code == 200

        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(ask, client) for client in range(8)]
            try:
                wait_until(lambda: len(server.pids("RankProcess")) == 2, server.text, 120)
            finally:
                enough.set()
            for client in clients:
                client.result()
