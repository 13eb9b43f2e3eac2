"""`starcoder verify` as it is typed: exit codes, reports, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deployments.command import cli
from deployments.command.verify import command, identity, stages
from deployments.command.verify.cases import Material
from deployments.command.verify.judging import CaseVerdict, Error, Judgement
from deployments.command.verify.readings import EngineAnswer
from deployments.command.verify.report import Report
from model.config import EngineConfig
from model.text.tokenizer import Tokenizer
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.native import needs_kernel
from tests.support.tokenizers import starcoder_rules, write_tokenizer
from tests.support.verified import answered

pytestmark = pytest.mark.usefixtures("only_new_garbage")

SHAPE = {"n_layer": 2, "n_embd": 48, "n_head": 4, "n_inner": 64}
STEPS = ["--device", "cpu", "--num-threads", "1", "--max-num-batched-tokens", "64", "--max-num-seqs", "6", "--quick"]


def written(directory: Path, **shape: object) -> Path:
    rules = starcoder_rules()
    model = random_model(vocab_size=Tokenizer(rules).vocab_size, **{**SHAPE, **shape})
    return write_tokenizer(write_checkpoint(directory, model), rules)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("command") / "tiny")


@pytest.fixture
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is started: those take seconds."""

    def together(works: list, say: object, scratch: Path | None = None) -> list:  # type: ignore[type-arg]
        class Here:
            def say(self, text: str) -> None:
                assert text

            def first(self, value: object) -> object:
                return value

        return [work(Here()) for work in works]

    monkeypatch.setattr(stages, "together", together)


def verified(checkpoint: Path, *options: str) -> int:
    return cli.main(["verify", "--model", str(checkpoint), *STEPS, *options])


def test_two_ranks_agree_and_nothing_is_left(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "mine.jsonl").write_text('{"prompt": "def f(x):", "suffix": "\\n"}')
    options = ["--dtype", "float32", "--tensor-parallel-size", "2", "--prompts", str(tmp_path / "mine.jsonl")]
    reports = [tmp_path / "report.json", tmp_path / "report.md"]
    told = [word for path in reports for word in ("--report", str(path))]
    code = verified(checkpoint, *options, "--scratch", str(tmp_path / "scratch"), *told)
    out, err = capfd.readouterr()
    assert code == 0, out + err
    assert list((tmp_path / "scratch").iterdir()) == []
    assert out == reports[1].read_text()
    assert out.startswith("# starcoder verify: agrees\n\nThe engine computes what transformers computes. At ")
    assert "off from float64 by" in out
    assert re.search(r"^ +\d+\.\d s  transformers: reading \d+ texts in float64$", err, re.MULTILINE)
    report = json.loads(reports[0].read_text())
    assert report["agrees"] is True
    assert report["faults"] == []
    assert report["engine"]["ranks"] == 2
    assert report["settings"]["tensor_parallel_size"] == 2
    assert "model.safetensors" in report["checkpoint"]["files"]
    assert {"torch", "transformers", "accelerate"} <= report["versions"].keys()
    assert [case["name"] for case in report["cases"]][-2:] == ["as served", "your prompts"]
    assert str(checkpoint.parent) not in reports[0].read_text() + out, "it tells where the checkpoint lies"


@pytest.mark.usefixtures("in_one_process")
def test_other_weights_disagree(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine's are not those that transformers reads."""
    other = written(tmp_path / "other", seed=7)

    def run_engine(config: EngineConfig, material: Material, say: object) -> EngineAnswer:
        return answered(config.model_copy(update={"model": str(other)}), material)

    monkeypatch.setattr(command, "run_engine", run_engine)
    assert verified(checkpoint, "--dtype", "bfloat16", "--report", str(tmp_path / "report.json")) == 1
    out = capsys.readouterr().out
    assert out.startswith("# starcoder verify: DISAGREES\n\nThe engine does NOT compute what transformers computes.")
    assert out.count("DISAGREES |") == 9
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["agrees"] is False
    assert len(report["faults"]) > 9


def test_numbers_that_are_none_are_null_in_a_report() -> None:
    broken = CaseVerdict("a case", engine=Error(float("inf"), float("nan")), faults=["off"])
    judgement = Judgement([broken], broken.engine, Error(), 0.0)
    identity = {"sha256": "00"}
    report = Report(judgement, [], 0, None, None, "float32", "bfloat16", "none", {}, identity, {}, [], {}, 1.0)
    written = json.loads(json.dumps(report.json(), allow_nan=False))
    assert written["error_nats"]["engine"] == {"rms": None, "largest": None}
    assert not report.agrees
    assert "inf (nan)" in report.markdown()


@needs_kernel
@pytest.mark.usefixtures("in_one_process")
def test_eight_bits_agree_with_eight_bits_and_tell_what_they_cost(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verified(checkpoint, "--quantization", "int8", "--report", str(tmp_path / "report.json")) == 0
    out = capsys.readouterr().out
    assert "bfloat16, products in int8) are off from float32 with the same 8 bits" in out
    assert "int8 itself moves the model: at 65 positions of code" in out
    found = json.loads((tmp_path / "report.json").read_text())["quantization"]
    assert 0 < found["divergence"] < 0.05
    assert 0.8 < found["same"] <= 1
    assert found["perplexity"] == pytest.approx(found["plain_perplexity"], rel=0.05)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--load-format", "random"], "noise has no weights"),
        (["--report", "report.txt"], "has to end in .json or .md"),
        (["--report", "/nowhere/report.md"], "there is no directory /nowhere"),
        (["--scratch", "/nowhere"], "--scratch /nowhere: No such file"),
        (["--prompts", "/nowhere"], "prompts /nowhere: No such file"),
        (["--tensor-parallel-size", "3"], "tensor_parallel_size=3 does not divide"),
        (["--max-model-len", "9000"], "above the model's window"),
        (["--port", "80"], "there is no option --port"),
    ],
)
def test_what_cannot_be_verified_is_refused_at_once(
    options: list[str], reason: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = verified(checkpoint, *options)
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.usefixtures("in_one_process")
def test_what_fails_is_no_verdict(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_engine(*_: object) -> EngineAnswer:
        raise RuntimeError("the engine ran out of memory")

    monkeypatch.setattr(command, "run_engine", run_engine)
    assert verified(checkpoint, "--scratch", str(tmp_path)) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("could not be done: the engine ran out of memory")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("in_one_process")
@pytest.mark.parametrize("error", [TypeError("of this program"), MemoryError(), KeyError("x"), AssertionError()])
def test_a_fault_of_its_own_is_no_verdict(
    error: Exception, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 would say that the engine does not compute what transformers computes."""

    def run_engine(*_: object) -> EngineAnswer:
        raise error

    monkeypatch.setattr(command, "run_engine", run_engine)
    assert verified(checkpoint) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"it could not be done: a fault of this program: {type(error).__name__}" in last


@pytest.mark.parametrize("faults", [[], ["off"]])
def test_the_verdict_does_not_hang_on_who_reads_the_report(
    faults: list[str], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`starcoder verify | head` ends as `starcoder verify` does."""
    case = CaseVerdict("a case", faults=faults)
    judgement, checked = Judgement([case], Error(), Error(), 0.0), {"sha256": "00"}
    report = Report(judgement, [], 0, None, None, "float32", "bfloat16", "none", {}, checked, {}, [], {}, 1.0)
    monkeypatch.setattr(command, "verify", lambda *_: report)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert verified(checkpoint) == len(faults)


@pytest.mark.usefixtures("in_one_process")
def test_a_draft_model_is_identified_and_its_drafts_are_counted(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without telling where it lies."""
    draft = written(tmp_path / "private" / "small", seed=3, n_layer=1, n_embd=8, n_head=2, n_inner=16)
    options = ["--draft-model", str(draft), "--dtype", "float32", "--report", str(tmp_path / "report.json")]
    assert verified(checkpoint, *options) == 0
    out, report = capsys.readouterr().out, json.loads((tmp_path / "report.json").read_text())
    assert "private" not in json.dumps(report) + out
    assert report["settings"]["draft_model"] == "small"
    assert report["draft_model"] == identity.checkpoint(draft)
    assert f"- draft model: SHA-256 {identity.checkpoint(draft)['sha256']}" in out
    assert report["drafts"]["lookup"] > 0
    assert report["drafts"]["model"] > report["drafts"]["model_right"]
    assert f"{report['drafts']['model']:,} by a draft model, " in out


@pytest.mark.usefixtures("in_one_process")
def test_what_a_rank_refuses_is_told(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only there it is seen that weights are no numbers."""
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    model = random_model(vocab_size=1200, **SHAPE)
    model.transformer.h[0].mlp.c_fc.weight.data.fill_(float("nan"))
    write_checkpoint(broken, model)
    assert verified(broken, "--dtype", "float32") == 2
    assert "the model's first logits are not finite" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_it_leaves_nothing(number: signal.Signals, checkpoint: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    arguments = [sys.executable, "-m", "deployments.command.cli", "verify", "--model", str(checkpoint), *STEPS]
    with subprocess.Popen(
        [*arguments, "--scratch", str(tmp_path)], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        assert "engine: loading" in process.stderr.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(number)
        assert process.wait(60) == cli.INTERRUPTED
        assert process.stderr.read() == ""
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    assert list(tmp_path.iterdir()) == []
