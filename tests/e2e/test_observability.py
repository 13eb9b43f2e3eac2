"""What an operator of the real server sees: lines of its log, and traces that a collector got."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from monitoring import events
from tests.support.cluster import Cluster
from tests.support.collector import Collector
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

SECRET = "swordfish_one_two_three"


def ask(cluster: Cluster, path: str = "/v1/completions", **fields: Any) -> tuple[httpx.Response, dict[str, Any]]:
    """The answer, and the one line of the log about it."""
    identifier = f"test-{uuid4().hex}"
    body = {"prompt": SECRET, "max_tokens": 8, "temperature": 0, "ignore_eos": True, **fields}
    headers = {"x-request-id": identifier, "traceparent": f"00-{uuid4().hex}-b7ad6b7169203331-01"}
    response = httpx.post(f"{cluster.url}{path}", json=body, headers=headers, timeout=120)
    return response, line_of(cluster, identifier)


def line_of(cluster: Cluster, identifier: str) -> dict[str, Any]:
    def lines() -> list[dict[str, Any]]:
        return [line for line in cluster.lines("request") if line["request_id"] == identifier]

    wait_until(lines, cluster.text)
    (line,) = lines()
    return line


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_has_one_line_and_one_trace(cluster: Cluster, cluster_collector: Collector, stream: bool) -> None:
    response, line = ask(cluster, stream=stream)
    assert response.status_code == 200
    assert response.headers.get_list("x-request-id") == [line["request_id"]]
    assert (line["model"], line["dialect"], line["outcome"]) == (cluster.name, "openai", "ok")
    assert (line["status"], line["stream"], line["completion_tokens"]) == (200, stream, 8)
    assert line["finish_reasons"] == ["length"]
    assert 0 < line["ttft_ms"] <= line["duration_ms"]
    assert line["engine"] == cluster.lines("engine.ready")[-1]["replica"]
    names = ("POST /v1/completions", f"text_completion {cluster.name}", "route", "engine", "queue", "prefill", "decode")
    spans = cluster_collector.trace(line["trace_id"], *names)
    by_id = {span.id: name for name, span in spans.items()}
    assert [by_id.get(spans[name].parent, spans[name].parent) for name in names] == [
        "b7ad6b7169203331",
        "POST /v1/completions",
        f"text_completion {cluster.name}",
        f"text_completion {cluster.name}",
        *["engine"] * 3,
    ]
    assert spans["route"].attributes["starcoder.engine"] == line["engine"]
    assert line["replica"] in spans[names[0]].resource["service.instance.id"]
    assert line["engine"] in spans["engine"].resource["service.instance.id"]
    assert SECRET not in str(list(spans.values()))


def test_a_client_that_leaves_and_one_that_errs_have_lines(cluster: Cluster, cluster_collector: Collector) -> None:
    identifier = f"test-{uuid4().hex}"
    body = {"prompt": SECRET, "max_tokens": 1900, "ignore_eos": True, "stream": True}
    headers = {"x-request-id": identifier}
    with httpx.stream("POST", f"{cluster.url}/v1/completions", json=body, headers=headers, timeout=120) as response:
        next(response.iter_lines())
    line = line_of(cluster, identifier)
    assert (line["outcome"], line["level"]) == ("aborted", "info")
    assert 0 < line["completion_tokens"] < 1900
    spans = cluster_collector.trace(line["trace_id"], "POST /v1/completions", "engine", "decode")
    assert spans["decode"].attributes["starcoder.finish_reason"] == "abort"
    for path, fields, status in (("/v1/completions", {"max_tokens": SECRET}, 400), ("/nowhere", {}, 404)):
        response, line = ask(cluster, path, **fields)
        assert (response.status_code, line["status"], line["outcome"]) == (status, status, "refused")
        assert response.headers.get_list("x-request-id") == [line["request_id"]]


def test_the_log_is_json_and_holds_no_text(cluster: Cluster) -> None:
    ask(cluster)
    ready = cluster.lines("engine.ready")[0]
    assert ready["kv_cache_tokens"] > 0
    assert ready["parameter_bytes"] > 0
    assert (ready["tensor_parallel_size"], ready["dtype"]) == (2, "float32")
    assert SECRET not in cluster.text()
    whole, _, _ = cluster.text().rpartition("\n")  # the last line may still be being written
    lines = [json.loads(line) for line in whole.splitlines()]
    assert [fault for line in lines for fault in events.wrong(line)] == []
