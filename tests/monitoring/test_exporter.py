"""Several real processes on one directory: what a scrape says while they live and after they were killed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, start_http_server
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families

from monitoring.exporter import NodeExporter
from monitoring.front_metrics import COLLECTED_AT
from monitoring.metrics import GENERATION_TOKENS
from monitoring.process import render
from monitoring.shared_directory import SharedDirectory
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
Start = Callable[[int, int], subprocess.Popen]


def parse(text: bytes) -> dict[str, float]:
    """Series to value; `model` is everywhere `pico`, and `team` and `dialect` what they are by default: left out."""
    series = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = {key: value for key, value in sample.labels.items() if key != "model"}
            assert sample.labels.get("model") == (None if sample.name == COLLECTED_AT.full_name else "pico")
            if labels.pop("team", "default") != "default" or labels.pop("dialect", "other") != "other":
                continue
            name = sample.name.removeprefix("starcoder_")
            series[name + "".join(f"[{value}]" for value in labels.values())] = sample.value
    return series


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(running, tokens) runs a recording process and returns once it has recorded."""
    processes = []

    def start_one(running: int, tokens: int) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.metrics_worker", str(tmp_path), str(running), str(tokens)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start_one
    for process in processes:
        process.kill()
        process.communicate()


def recorders(series: dict[str, float]) -> set[int]:
    """Ids of the processes that a target speaks for."""
    names = [name for name in series if name.startswith("recording_since_seconds[")]
    return {int(name.partition("[")[2].partition("-")[0]) for name in names}


def end(process: subprocess.Popen, how: int) -> None:
    os.kill(process.pid, how)
    process.wait(120)


def test_processes_merge_and_the_killed_one_keeps_its_counts_only(tmp_path: Path, start: Start) -> None:
    first, second = start(3, 10), start(5, 100)
    both = parse(render(tmp_path))
    assert recorders(both) == {first.pid, second.pid}
    assert both["num_requests_running"] == 8
    assert both["num_requests_waiting"] == 16
    assert both["kv_cache_usage_perc"] == 0.5  # of the fuller replica
    assert both["kv_cache_blocks"] == 200
    assert both["generation_tokens_total"] == 110
    assert both["requests_rejected_total[queue_full]"] == 2

    end(first, signal.SIGKILL)
    one = parse(render(tmp_path))
    assert one["num_requests_running"] == 5
    assert one["kv_cache_blocks"] == 100
    assert (both["ingresses_up"], one["ingresses_up"]) == (2, 1)
    assert both["ingress_oldest_turn_timestamp_seconds"] < one["ingress_oldest_turn_timestamp_seconds"]
    assert both["ingress_newest_turn_timestamp_seconds"] == one["ingress_newest_turn_timestamp_seconds"]
    assert recorders(one) == {second.pid}
    of_gauges = ("num_requests", "kv_cache", "engines_up", "queue_oldest", "ingress", "recording_since")
    gauges = {name for name in both if name.startswith(of_gauges)}
    assert {name: one[name] for name in one.keys() - gauges} == {name: both[name] for name in both.keys() - gauges}


def test_the_nodes_of_a_pod_merge(tmp_path: Path, start: Start) -> None:
    """An exporter beside the pod's processes is given the directory above; a raylet that restarts has a new id."""
    start(3, 10)
    for number in (1, 2):
        (tmp_path / f"node-{number}").mkdir()
        for file in list(tmp_path.glob("*_*.db")):
            (tmp_path / f"node-{number}" / file.name).write_bytes(file.read_bytes())
    merged = parse(render(tmp_path))
    assert merged["generation_tokens_total"] == 30
    assert merged["time_to_first_token_seconds_count"] == 9


def test_a_process_that_was_not_waited_for_is_dead_all_the_same(tmp_path: Path, start: Start) -> None:
    """A zombie still has its process id; it holds no lock."""
    process = start(3, 10)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert "num_requests_running" not in parse(render(tmp_path))


def test_histograms_merge_exactly(tmp_path: Path, start: Start) -> None:
    start(1, 1)
    start(1, 1)
    end(start(1, 1), signal.SIGKILL)
    series = parse(render(tmp_path))
    name = "time_to_first_token_seconds"
    buckets = {key: count for key, count in series.items() if key.startswith(f"{name}_bucket")}
    assert buckets[f"{name}_bucket[0.005]"] == 3
    assert buckets[f"{name}_bucket[0.02]"] == 3
    assert buckets[f"{name}_bucket[0.03]"] == 6
    assert buckets[f"{name}_bucket[30.0]"] == 6
    assert buckets[f"{name}_bucket[+Inf]"] == series[f"{name}_count"] == 9
    assert series[f"{name}_sum"] == pytest.approx(3 * 40.034)


def test_restarts_do_not_fill_the_directory(tmp_path: Path, start: Start) -> None:
    for generation in range(1, 4):
        end(start(1, 7), signal.SIGTERM)
        assert parse(render(tmp_path))["generation_tokens_total"] == 7 * generation
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"lock", "counter_archive.db", "histogram_archive.db"}


def test_who_died_before_its_files_were_sized_takes_nobodys_counts_along(tmp_path: Path, start: Start) -> None:
    process = start(1, 7)
    for name in ("2-dead.alive", "counter_2-dead.db", "histogram_2-dead.db", "gauge_livemax_2-dead.db"):
        (tmp_path / name).touch()
    assert parse(render(tmp_path))["generation_tokens_total"] == 7
    assert not list(tmp_path.glob("*2-dead*"))
    end(process, signal.SIGKILL)
    assert parse(render(tmp_path))["generation_tokens_total"] == 7
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "counter_archive.db", "histogram_archive.db"}


def test_counts_survive_a_crash_while_they_are_archived(tmp_path: Path, start: Start) -> None:
    """Whatever was reached when the sweeping process died: nothing is lost and nothing counted twice."""
    process = start(1, 7)
    end(process, signal.SIGKILL)
    counter = next(tmp_path.glob("counter_*.db"))

    # Before the journal: the half-written archive is not read.
    stray = MmapedDict(str(tmp_path / "counter_archive.next"))
    for key, value, *_ in MmapedDict.read_all_values_from_file(str(counter)):
        stray.write_value(key, 2 * value, 0.0)
    stray.close()
    copy = counter.read_bytes()
    assert parse(render(tmp_path))["generation_tokens_total"] == 7

    # After the journal and the renaming, before the merged file is removed.
    counter.write_bytes(copy)
    (tmp_path / "archiving.json").write_text(json.dumps({"archive": "counter_archive.db", "merged": [counter.name]}))
    assert parse(render(tmp_path))["generation_tokens_total"] == 7
    assert not counter.exists()


def test_scrapes_at_the_same_time_never_see_a_counter_fall(tmp_path: Path, start: Start) -> None:
    processes = [start(1, 5) for _ in range(4)]
    failures: list[object] = []
    done = threading.Event()

    def scrape() -> None:
        last = 0.0
        while not done.is_set():
            value = parse(render(tmp_path))["generation_tokens_total"]
            if value < last or value != 20:
                failures.append(value)
            last = value

    threads = [threading.Thread(target=scrape) for _ in range(3)]
    for thread in threads:
        thread.start()
    for process in processes:
        end(process, signal.SIGKILL)
    done.set()
    for thread in threads:
        thread.join(120)
    assert not failures
    assert parse(render(tmp_path))["generation_tokens_total"] == 20


def test_a_scrape_waits_for_the_one_that_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has come to the lock, and tells what is there once it has it."""
    flock, at_the_lock, scraped = fcntl.flock, threading.Event(), []

    def told(file: int, how: int) -> None:
        if threading.current_thread() is scrape and how == fcntl.LOCK_EX:
            with pytest.raises(BlockingIOError):
                flock(file, how | fcntl.LOCK_NB)
            at_the_lock.set()
        flock(file, how)

    scrape = threading.Thread(target=lambda: scraped.append(parse(render(tmp_path))))
    with SharedDirectory(tmp_path).locked():
        monkeypatch.setattr(fcntl, "flock", told)
        scrape.start()
        assert at_the_lock.wait(120)
        late = MmapedDict(str(tmp_path / "counter_archive.db"))
        late.write_value(GENERATION_TOKENS.key("pico"), 5.0, 0.0)
        late.close()
    scrape.join(120)
    assert [series["generation_tokens_total"] for series in scraped] == [5]


def test_a_forked_child_counts_for_itself(tmp_path: Path) -> None:
    script = f"""
import os, sys
from pathlib import Path
from monitoring.process import init
from monitoring.replica import ReplicaMetrics
init(Path({str(tmp_path)!r}))
replica = ReplicaMetrics("pico")
replica.of().first_token(0.1)
child = os.fork()
if child == 0:
    replica.of().first_token(0.1)
    os._exit(0)
os.waitpid(child, 0)
replica.of().first_token(0.1)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=120)
    assert parse(render(tmp_path))["time_to_first_token_seconds_count"] == 3


def test_a_parents_death_is_noticed_though_a_forked_child_lives(tmp_path: Path) -> None:
    shared = SharedDirectory(tmp_path)
    script = f"""
import os, sys
from pathlib import Path
from monitoring.process import init
from monitoring.replica import ReplicaMetrics
init(Path({str(tmp_path)!r}))
ReplicaMetrics("pico")
if os.fork() == 0:
    print("forked", flush=True)
    sys.stdin.read()
    os._exit(0)
os._exit(0)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "forked\n"
    assert process.wait(120) == 0
    shared.sweep()
    assert not list(tmp_path.glob("*.alive"))
    process.communicate()  # ends the child


def scraped(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url, timeout=120) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return parse(answer.read())


def test_exporter_answers_over_http(tmp_path: Path, start: Start) -> None:
    with NodeExporter(tmp_path, port=0) as exporter:
        assert exporter.host == "127.0.0.1"
        assert scraped(exporter.url).keys() == {"page_collected_timestamp_seconds"}
        start(4, 9)
        wait_until(lambda: "num_requests_running" in scraped(exporter.url), "not collected")
        series = scraped(exporter.url)
    del series["page_collected_timestamp_seconds"]
    assert series["num_requests_running"] == 4
    assert series == parse(render(tmp_path))


def test_exporter_command_serves_and_ends_on_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monitoring.exporter", "--directory", str(tmp_path), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().rpartition(" ")[2].strip()
        assert urllib.request.urlopen(url, timeout=120).status == 200
        process.terminate()
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_taken_port_is_a_clear_error(tmp_path: Path) -> None:
    with NodeExporter(tmp_path, port=0) as exporter:
        command = [sys.executable, "-m", "monitoring.exporter", "--directory", str(tmp_path)]
        command += ["--port", str(exporter.port)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "cannot serve metrics on 127.0.0.1" in result.stderr
    assert "Traceback" not in result.stderr


def test_other_libraries_metrics_stay_out(tmp_path: Path, start: Start) -> None:
    start(1, 1)
    other = MmapedDict(str(tmp_path / "counter_4711.db"))
    other.write_value(json.dumps(["other", "other_total", {"model": "pico"}, "help"]), 1.0, 0.0)
    other.close()
    text = render(tmp_path).decode()
    assert "other" not in {line.split(" ")[0] for line in text.splitlines()}
    assert "\nother" not in text


def test_what_is_on_loopback_alone_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's series, for a Prometheus of another machine or container; a company's proxy is not asked for them."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    recorder = CollectorRegistry()
    Counter("ray_serve_made_up", "Nothing.", registry=recorder).inc(3)
    server, thread = start_http_server(0, "127.0.0.1", recorder)
    others = {"ray": f"127.0.0.1:{server.server_port}"}

    def get(path: str) -> tuple[int, str]:
        try:
            with direct.open(f"http://{exporter.address}{path}", timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    with NodeExporter(tmp_path, port=0, others=others) as exporter:
        assert "ray_serve_made_up_total 3.0" in get("/ray")[1]
        assert "ray_serve" not in get("/metrics")[1]
        server.shutdown()
        server.server_close()
        thread.join(120)
        status, said = get("/ray")
    assert status == 502
    assert others["ray"] in said
