"""The definitions, against timelines that can be checked by hand."""

from __future__ import annotations

import pytest

from benchmarks.metrics import Timeline, distribution, samples, summarize
from benchmarks.report import Result, markdown_table, number, table
from benchmarks.server.slo import Slo, goodput

FAST = Timeline(started=10.0, prompt_tokens=100, output_tokens=5, pieces=[10.1, 10.2, 10.3, 10.4, 10.5])
COALESCED = Timeline(started=0.0, prompt_tokens=50, output_tokens=9, pieces=[0.5, 2.5])
SINGLE = Timeline(started=1.0, prompt_tokens=10, output_tokens=1, pieces=[1.3])
FAILED = Timeline(started=1.0, prompt_tokens=10, pieces=[1.1], error="503")
SILENT = Timeline(started=1.0)


def test_one_request() -> None:
    assert FAST.ttft == pytest.approx(0.1)
    assert FAST.e2el == pytest.approx(0.5)
    assert FAST.tpot == pytest.approx(0.1)
    assert FAST.itls == pytest.approx([0.1] * 4)


def test_tpot_counts_tokens_and_itl_counts_pieces() -> None:
    assert COALESCED.itls == [2.0]
    assert COALESCED.tpot == pytest.approx(2.0 / 8)


def test_one_token_has_no_tpot() -> None:
    assert SINGLE.tpot is None
    assert SINGLE.itls == []


def test_a_summary_counts_completed_requests_only() -> None:
    summary = summarize([FAST, COALESCED, SINGLE, FAILED, SILENT], duration=4.0)
    assert summary["completed"] == 3
    assert summary["failed"] == 2
    assert summary["total_input_tokens"] == 160
    assert summary["total_output_tokens"] == 15
    assert summary["request_throughput"] == 0.75
    assert summary["output_throughput"] == 3.75
    assert summary["total_token_throughput"] == 43.75
    assert summary["mean_ttft_ms"] == pytest.approx(300)
    assert summary["median_ttft_ms"] == summary["p50_ttft_ms"] == pytest.approx(300)
    assert summary["p99_ttft_ms"] == pytest.approx(300 + 0.98 * 200)
    assert summary["mean_itl_ms"] == pytest.approx((4 * 100 + 2000) / 5)
    assert summary["mean_tpot_ms"] == pytest.approx((100 + 250) / 2)


def test_no_observations_no_numbers() -> None:
    assert distribution("ttft", []) == {}
    assert samples([FAILED]) == {"ttft": [], "tpot": [], "itl": [], "e2el": []}
    assert summarize([FAILED], 1.0)["completed"] == 0


def test_goodput_needs_every_bound() -> None:
    requests = [FAST, COALESCED, SINGLE, FAILED]
    assert goodput(requests, 2.0, Slo.parse("ttft:0.35")) == 1.0
    assert goodput(requests, 2.0, Slo.parse("ttft:0.35,e2e:0.4")) == 0.5
    assert goodput(requests, 2.0, Slo.parse("tpot:0.2")) == 1.0  # a single token keeps it
    assert goodput(requests, 2.0, Slo()) == 1.5


def test_slo_is_parsed() -> None:
    assert Slo.parse("ttft:0.2, e2e:1") == Slo(ttft=0.2, e2el=1.0)
    for wrong in ("", "ttft", "ttft:x", "itl:1", "ttft:-1", "ttft:nan", "ttft:0.2,"):
        with pytest.raises(ValueError, match=r"."):
            Slo.parse(wrong)


def test_tables() -> None:
    assert table([("metric", "value"), ("a", "1,000")]).splitlines() == ["metric  value", "-" * 13, "a       1,000"]
    assert markdown_table([("a|b", "c"), ("1", "2")]) == "| a\\|b | c |\n| --- | ---: |\n| 1 | 2 |"
    assert [number(v) for v in (None, 12345.6, 0.123456, 7, True, "x")] == ["-", "12,346", "0.1235", "7", "True", "x"]
    assert "p50" in Result("latency", {}, {"p50": 1.0}).text()
