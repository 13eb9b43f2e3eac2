"""The command itself: on a CPU with small sizes, and on a machine that has next to nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.engine.gpu import command, draft_model, speeds, two_ranks
from benchmarks.engine.gpu.context import Context
from benchmarks.engine.gpu.drafts import WAYS
from benchmarks.engine.gpu.plan import measurements
from benchmarks.engine.gpu.session import Wrong
from benchmarks.engine.gpu.sizes import FULL, SMALL
from benchmarks.report import Result
from model.config import EngineConfig
from model.process.rank import Rank
from tests.support.fresh_process import run_fresh
from tests.support.ranks import FORKS

pytestmark = pytest.mark.usefixtures("only_new_garbage")

STATES = ("running", "done")
GPU = ("gpu", "--device", "cpu", "--shape", "tiny")


def entries(path: Path) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in json.loads(path.read_text())["details"]}


def every_version(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What the file says of each measurement, whenever it has been written."""
    found: list[dict[str, str]] = []
    write = Result.write

    def writes(result: Result, path: Path) -> None:
        write(result, path)
        found.append({name: entry["status"] for name, entry in entries(path).items()})

    monkeypatch.setattr(Result, "write", writes)
    return found


def test_one_model_is_loaded_and_measured_in_many_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "gpu.json"
    versions = every_version(monkeypatch)
    loads: list[object] = []
    real = Context.model
    monkeypatch.setattr(Context, "model", lambda c, *kind: loads.append(found := real(c, *kind)) or found)
    only = ("limits", "batch 2", "overlap", "drafts", "requests", "kernels of a step, decode, batch 1")
    assert main([*GPU, "--output", str(written), "--only", *only]) == 0
    found = entries(written)
    assert {e["status"] for e in found.values()} == {"done"}
    assert len({id(model) for model in loads}) == 1
    names = list(found)
    states = [{**dict.fromkeys(names[:i], "done"), names[i]: state} for i in range(len(names)) for state in STATES]
    assert [state for state in states if state not in versions] == []
    decode = found["decode, batch 2, 24 before"]["metrics"]
    assert decode["steps"] == SMALL.steps - 1
    assert decode["tokens_per_s"] == pytest.approx(2000 / decode["ms_per_step"])
    nearest = max(decode["percent_of_copy"], decode["percent_of_matmul"])
    assert decode["percent_of_roofline"] == pytest.approx(nearest)
    requests = found["6 requests of 24 in, 6 out"]["metrics"]
    assert requests["output_throughput"] == pytest.approx(36 / requests["seconds"], rel=0.01)
    profile = found["kernels of a step, decode, batch 1, 24 before"]
    assert profile["metrics"]["kernels_ms"] > 0
    assert len(profile["rows"]) > 5
    drafts = found["drafts by how many are right, batch 3"]
    assert drafts["metrics"]["without, tokens_per_step"] == 3
    assert drafts["metrics"]["without, percent_accepted"] == drafts["metrics"]["0 % right, percent_accepted"] == 0
    assert drafts["metrics"]["90 % right, tokens_per_step"] > 3
    assert [row[0] for row in drafts["rows"]] == ["drafts", *(way.name for way in WAYS)]
    out = capsys.readouterr().out
    assert "decode, batch 2, 24 before: tokens_per_s=" in out
    assert str(tmp_path) not in written.read_text()


def test_drafts_of_one_token_break_even_where_they_bring_what_they_take() -> None:
    step, checked, each = 10.0, 11.5, 0.5
    right = draft_model.break_even(each, checked, step) / 100
    assert (1 + right) / (checked + each) == pytest.approx(1 / step)


def test_a_draft_model_is_measured_beside_the_model(tmp_path: Path) -> None:
    written = tmp_path / "gpu.json"
    assert main([*GPU, "--output", str(written), "--only", "draft model of the shape tiny, batch 2"]) == 0
    found = entries(written)["a draft model of the shape tiny, batch 2"]
    assert found["status"] == "done"
    metrics = found["metrics"]
    assert metrics["without, tokens_per_step"] == 2
    assert metrics["4 tokens, 0 % right, tokens_per_step"] == 2
    assert metrics["4 tokens, 0 % right, tokens_per_draft"] > 1
    assert metrics["4 tokens, 0 % right, percent_accepted"] == 0
    assert 0 < metrics["ms_per_pass"] < metrics["4 tokens, 0 % right, ms_per_step"]
    assert "break_even_percent" in metrics
    assert [row[0] for row in found["rows"]] == ["drafts", *(way.name for way in draft_model.WAYS)]


def test_a_budget_that_is_spent_leaves_a_result_and_one_that_is_resumed_adds_to_it(tmp_path: Path) -> None:
    written = tmp_path / "gpu.json"
    options = [*GPU, "--output", str(written), "--only", "limits", "batch 2"]
    assert main([*options, "--budget", "5"]) == 0
    first = entries(written)
    assert (first["limits"]["status"], first["load"]["status"]) == ("done", "skipped")
    assert "s are left" in first["load"]["said"]
    assert main([*options, "--resume"]) == 0
    second = entries(written)
    assert second["limits"] == first["limits"]
    assert second["decode, batch 2, 24 before"]["status"] == "done"


def test_prefill_is_compared_with_what_the_device_multiplies() -> None:
    context = Context(torch.device("cpu"), "tiny")
    metrics = speeds.prefill(context).metrics
    assert metrics["tokens_per_s"] == pytest.approx(64_000 / metrics["ms"])
    share = 1e14 * metrics["tflops"] / context.limits.matmul_flops_per_s
    assert metrics["percent_of_matmul"] == pytest.approx(share)


def test_what_a_device_cannot_do_is_skipped_with_all_that_needs_it(tmp_path: Path) -> None:
    written = tmp_path / "gpu.json"
    assert main([*GPU, "--output", str(written), "--only", "batch 1, 24 before, fp8"]) == 0
    found = entries(written)
    assert {name: e["status"] for name, e in found.items()} == dict.fromkeys(found, "skipped")
    assert found["load, fp8"]["said"] == "fp8 needs a GPU"
    assert "load, fp8" in found["decode, batch 1, 24 before, fp8"]["said"]


def test_two_ranks_are_compared_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cache each, and with one that both share."""
    monkeypatch.setattr(two_ranks.multiprocessing, "get_context", lambda method: FORKS)
    written = tmp_path / "gpu.json"
    assert main([*GPU, "--output", str(written), "--only", "two ranks"]) == 0
    for name in ("two ranks on one device", "two ranks that share a cache"):
        metrics = entries(written)[name]["metrics"]
        assert metrics["mean_difference_of_logprobs"] < 1e-4
        assert metrics["same_text_percent"] == 100


def test_two_ranks_that_are_another_network_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def other_weights(config: EngineConfig) -> dict[str, Any]:
        two_ranks.write_weights(Path(config.model), "tiny", seed=1)
        rank = Rank(config, size=1)
        rank.load()
        return {**two_ranks.answers(rank.engine()), "shares_gpu": False, "fused_rows": 0}

    monkeypatch.setattr(two_ranks, "_answers_by_two", other_weights)
    with pytest.raises(Wrong) as caught:
        two_ranks.two_ranks(Context(torch.device("cpu"), "tiny"))
    assert caught.value.found.metrics["mean_difference_of_logprobs"] > 0.3


def test_greedy_texts_are_those_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = tmp_path / "gpu.json"
    options = [*GPU, "--output", str(written), "--only"]
    assert main([*options, "transformers"]) == 0
    found = entries(written)
    assert found["greedy texts against transformers"]["metrics"]["same_as_float32_percent"] == 100
    # of so few tokens the machine's noise may make less than nothing
    assert math.isfinite(found["transformers generate"]["metrics"]["batch 1, tokens_per_s"])
    monkeypatch.setattr("benchmarks.engine.gpu.reference.write", lambda _, prompts, count: [[5] * count] * len(prompts))
    assert main([*options, "against"]) == 0
    assert entries(written)["greedy texts against transformers"]["status"] == "wrong"


def test_the_plan_begins_with_what_matters_most() -> None:
    context = Context(torch.device("cpu"), "15b")
    context.sizes = FULL
    plan = measurements(context)
    names = [m.name for m in plan]
    assert len(set(names)) == len(names)
    order = [
        *("attention against its definition", "a recorded step against its definition", "load"),
        *(f"decode, batch {batch}, 512 before" for batch in (1, 8, 64, 256)),
        *("prefill of 2,048", "256 requests of 512 in, 128 out", "decode, batch 64, 512 before, top_p"),
        *("kernels of a step, decode, batch 64, 512 before", "kernels of a step, prefill of 2,048"),
        *("decode, batch 1, 512 before, no CUDA graphs", "drafts by how many are right, batch 8"),
        *("two ranks on one device", "fused all-reduce", "load, int8", "load, fp8"),
        *("single products", "transformers generate"),
    ]
    assert [name for name in names if name in order] == order
    assert all(m.needs is None or m.needs in names[:i] for i, m in enumerate(plan))


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["gpu"]) == 1
    assert "no GPU" in capsys.readouterr().err


def test_a_new_process_goes_on_with_the_same_command(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "benchmarks", "gpu", "--only", "decode"])
    monkeypatch.setattr("os.execv", lambda _, arguments: started.append(arguments[1:]))
    command.restart(61.7)
    assert started == [["-m", "benchmarks", "gpu", "--only", "decode", "--resume", "--budget", "62"]]


BARE = """
import json, sys

MISSING = sys.argv[1].split()

class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ImportError(f"{name} is not on this machine")

sys.meta_path.insert(0, Bare())
from benchmarks.__main__ import build_parser

options = build_parser("gpu").parse_args(["gpu"])
print(json.dumps([options.budget, sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names)]))
"""
MISSING = "ray fastapi starlette uvicorn httpx opentelemetry pydantic_settings jinja2 markdown_it huggingface_hub"


def test_a_bare_machine_imports_all_that_the_command_needs() -> None:
    """PyTorch's own packages, and those that the README says to bring; transformers when its turn comes."""
    budget, loaded = run_fresh(BARE, f"{MISSING} accelerate matplotlib yaml psutil")
    assert budget == 420
    there = {"torch", "torchgen", "numpy", "safetensors", "tokenizers", "prometheus_client", "triton", "tqdm"}
    brought = {"pydantic", "pydantic_core", "annotated_types", "typing_inspection", "msgspec"}
    ours = {"benchmarks", "model", "monitoring", "deployments"}
    rest = {name for name in loaded if not name.startswith("_")} - there - brought - ours
    assert rest <= {"typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "filelock", "fsspec"}  # PyTorch's
