"""The load generator on a real server that stands before a fake backend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import build_parser, main
from benchmarks.server.completions import check_url, is_loopback
from benchmarks.server.serve import run
from deployments.errors import OverloadedError
from tests.support.fake_backend import FakeBackend

SMALL = ("--num-prompts", "12", "--input-len", "40", "--output-len", "10", "--vocab-size", "1000")


def test_a_run(url: str, fake_backend: FakeBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "serve.json"
    arguments = ["serve", "--url", url, *SMALL, "--slo", "ttft:30,e2e:60", "--output", str(output)]
    assert main([*arguments, "--request-rate", "200", "--max-concurrency", "3"]) == 0
    assert "median_ttft_ms" in capsys.readouterr().out
    found = json.loads(output.read_text())
    metrics = found["metrics"]
    assert metrics["completed"] == 12
    assert metrics["failed"] == 0
    assert metrics["total_input_tokens"] == 480
    assert metrics["total_output_tokens"] == 120
    assert 1 <= metrics["max_concurrent_requests"] <= 3
    assert metrics["request_goodput"] == pytest.approx(metrics["request_throughput"])
    assert metrics["p50_e2el_ms"] >= metrics["p50_ttft_ms"] > 0
    assert len(found["samples"]["ttft"]) == 12
    assert url not in output.read_text()
    assert found["machine"]["cores"] >= 1
    assert len(fake_backend.requests) == 13  # one warms up
    assert len({tuple(r.prompts[0]) for r in fake_backend.requests}) == 13
    assert all(r.params.ignore_eos and r.params.greedy for r in fake_backend.requests)


def test_prompts_can_share_a_prefix(url: str, fake_backend: FakeBackend) -> None:
    run(build_parser().parse_args(["serve", "--url", url, *SMALL, "--shared-prefix-len", "20"]))
    assert len({tuple(r.prompts[0][:20]) for r in fake_backend.requests}) == 1
    assert {len(r.prompts[0]) for r in fake_backend.requests} == {60}


def test_failures_are_counted_with_their_reasons(url: str, fake_backend: FakeBackend) -> None:
    fake_backend.failure, fake_backend.failures_left = OverloadedError("full"), 4
    result = run(build_parser().parse_args(["serve", "--url", url, *SMALL, "--num-warmups", "0"]))
    assert (result.metrics["completed"], result.metrics["failed"]) == (8, 4)
    assert "full" in result.text()
    fake_backend.failures_left, fake_backend.fail_at = 2, 3
    result = run(build_parser().parse_args(["serve", "--url", url, *SMALL, "--num-warmups", "0"]))
    assert (result.metrics["completed"], result.metrics["failed"]) == (10, 2)


def test_a_run_that_fails_as_a_whole(url: str, fake_backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    fake_backend.failure = OverloadedError("full")
    assert main(["serve", "--url", url, *SMALL]) == 1
    assert "every request failed" in capsys.readouterr().err
    assert main(["serve", "--url", "http://127.0.0.1:9", *SMALL]) == 1
    assert "no server at" in capsys.readouterr().err


def test_other_machines_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--url", "http://10.0.0.7:8000", *SMALL]) == 2
    assert "--allow-remote" in capsys.readouterr().err
    check_url("http://10.0.0.7:8000", allow_remote=True)
    assert [is_loopback(h) for h in ("localhost", "127.3.2.1", "::1")] == [True] * 3
    assert [is_loopback(h) for h in ("0.0.0.0", "localhost.example", "192.168.0.1", "example.com")] == [False] * 4
    for wrong in ("127.0.0.1:8000", "ftp://127.0.0.1", "http://"):
        with pytest.raises(ValueError, match="no http"):
            check_url(wrong, allow_remote=True)


def test_a_plot_without_matplotlib_is_refused_before_the_run(
    fake_backend: FakeBackend, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert main(["serve", "--url", url, *SMALL, "--plot", "x.png"]) == 1
    assert "starcoder-serve[bench]" in capsys.readouterr().err
    assert fake_backend.requests == []


def test_a_plot(tmp_path: Path) -> None:
    from benchmarks.plots import PlotError, plot
    from benchmarks.report import Result

    plot(Result("serve", {}, {}, samples={"ttft": [0.1, 0.2], "itl": []}), tmp_path / "plots" / "a.png")
    assert (tmp_path / "plots" / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PlotError, match="no observations"):
        plot(Result("serve", {}, {}), tmp_path / "b.png")


def test_curves_are_drawn_the_same_each_time(tmp_path: Path) -> None:
    from benchmarks.plots import plot
    from benchmarks.report import Result

    lines = {"a": [(0.0, 1.0), (1.0, 2.0)], "b": [(0.5, 1.5)]}
    result = Result("scaling", {}, {}, curves={str(n): lines for n in range(5)}, axes=("hours", "%"), simulated=True)
    for name in ("a.svg", "b.svg"):
        plot(result, tmp_path / name)
    first, second = ((tmp_path / name).read_text() for name in ("a.svg", "b.svg"))
    assert first == second
    assert first.count("<!-- hours -->") == 5
