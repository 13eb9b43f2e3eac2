"""Whole runs, on made-up problems: known answers, a server that knows them, and one that does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.__main__ import main
from benchmarks.quality.figures import Against, Answers, report
from benchmarks.quality.protocols.registry import PROTOCOLS
from benchmarks.quality.published import FIGURES
from benchmarks.quality.sandbox.judge import Verdict
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import MODEL, FakeBackend
from tests.support.knowing_backend import Knowing
from tests.support.made_up_benchmarks import FILES, write
from tests.support.stage import Stage


@pytest.fixture
def knowing(stage: Stage, tokenizer: Tokenizer, fake_backend: FakeBackend) -> Knowing:
    problems = [p for name, (_, _, rows) in FILES.items() for p in PROTOCOLS[name].problems(rows)]
    known = {problem.prompt.strip(): problem.canonical for problem in problems if problem.canonical}
    stage.actor = backend = Knowing(tokenizer, {**known, "# Add.\nadd() {": "\n  echo $(($1 + $2))"})
    return backend


def run(tmp_path: Path, benchmark: str, *arguments: str, code: int = 0) -> dict[str, Any]:
    """The result's JSON, where there is one."""
    output = tmp_path / "result.json"
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    folder = ["--run", str(tmp_path / "run"), "--output", str(output), *write(data, benchmark)]
    assert main(["quality", benchmark, *folder, *arguments]) == code
    return json.loads(output.read_text()) if code == 0 else {}


def right(result: dict[str, Any]) -> list[tuple[int, int]]:
    return [(one["right"], one["of"]) for one in result["details"]]


@pytest.mark.parametrize("benchmark", [name for name in PROTOCOLS if name != "multipl-e"])
def test_solutions_score_all_and_nothing_scores_nothing(benchmark: str, tmp_path: Path) -> None:
    problems = len(PROTOCOLS[benchmark].problems(FILES[benchmark][2]))
    assert right(run(tmp_path, benchmark, "--answers", "canonical")) == [(1, 1)] * problems
    assert right(run(tmp_path, benchmark, "--answers", "empty")) == [(0, 1)] * problems


def test_data_without_solutions_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "multipl-e", "--answers", "canonical", code=2)
    assert "no solutions" in capsys.readouterr().err


@pytest.mark.parametrize("benchmark", PROTOCOLS)
def test_a_server_that_knows_scores_all(benchmark: str, tmp_path: Path, url: str, knowing: Knowing) -> None:
    result = run(tmp_path, benchmark, "--url", url, "--samples", "2")
    assert all(one["right"] == one["of"] == 2 for one in result["details"])
    assert {request.priority for request in knowing.requests} == {1}
    assert result["settings"]["model"] == MODEL
    assert str(tmp_path) not in json.dumps(result)
    assert url not in json.dumps(result)


def test_two_hundred_answers_have_two_hundred_seeds(tmp_path: Path, url: str, knowing: Knowing) -> None:
    run(tmp_path, "humaneval", "--url", url, "--problems", "1", "--sampling-only", "--seed", "5")
    assert len(knowing.requests) == 2
    params = [sequence.params for request in knowing.requests for sequence in request.sequences()]
    assert {one.seed for one in params} == set(range(5, 205))
    assert {(one.temperature, one.top_p) for one in params} == {(0.2, 0.95)}
    (prompt,) = {tuple(request.prompts[0]) for request in knowing.requests}
    assert {one.max_tokens for one in params} == {min(512, knowing.window) - len(prompt)}


def test_a_run_goes_on_where_it_was(tmp_path: Path, url: str, knowing: Knowing) -> None:
    arguments = ("--url", url, "--samples", "2")
    run(tmp_path, "humaneval", *arguments, "--problems", "1", "--sampling-only")
    assert len(knowing.requests) == 1
    first = run(tmp_path, "humaneval", *arguments)
    assert len(knowing.requests) == 2
    verdicts = (tmp_path / "run" / "verdicts.jsonl").read_text()
    assert run(tmp_path, "humaneval", "--url", "http://127.0.0.1:1", "--samples", "2")["metrics"] == first["metrics"]
    assert (tmp_path / "run" / "verdicts.jsonl").read_text() == verdicts
    run(tmp_path, "humaneval", "--url", url, "--samples", "3")
    assert [request.best_of for request in knowing.requests] == [2, 2, 1, 1]


def test_answers_of_another_server_are_not_those_of_the_one_that_is_asked(
    tmp_path: Path, url: str, knowing: Knowing, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is missing, and it is asked nonetheless who it is."""
    arguments = ("--samples", "1", "--sampling-only", "--url", url)
    run(tmp_path, "humaneval", *arguments)
    run(tmp_path, "humaneval", *arguments)
    assert ": 0 asked, 2 kept" in capsys.readouterr().err
    other = {"object": "list", "data": [{"id": "seven-b"}]}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=other))
    there = httpx.AsyncClient(base_url=url, transport=transport)
    monkeypatch.setattr("benchmarks.quality.served.connect", lambda options: there)
    run(tmp_path, "humaneval", *arguments, code=2)
    assert f"model: {MODEL}, now seven-b" in capsys.readouterr().err


def test_two_servers_are_compared_in_pairs(
    tmp_path: Path, url: str, knowing: Knowing, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same one twice, with one answer of the second put wrong."""
    arguments = ("--url", url, "--samples", "2", "--compare", url)
    run(tmp_path, "humaneval", *arguments, "--sampling-only")
    file = tmp_path / "run" / "compared" / "samples.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["completion"] = "\n    return None"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = run(tmp_path, "humaneval", *arguments)["metrics"]
    found = {
        name: metrics[f"second_less_first/{name}"] for name in ("better", "worse", "difference", "p", "same_texts")
    }
    assert found == {"better": 0, "worse": 1, "difference": -25, "p": 1, "same_texts": 0.75}
    assert "more than chance" in capsys.readouterr().out


def test_published_figures_stand_beside(
    tmp_path: Path, url: str, knowing: Knowing, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = run(tmp_path, "fim", "--url", url, "--published-as", "bigcode/starcoder")["metrics"]
    assert metrics["py/exact match_percent"] == 100
    assert (metrics["py/published_percent"], metrics["py/reproduced"]) == (62.0, "other data")
    assert "arXiv 2305.06161" in metrics["js/published_in"]
    assert "all, exact match" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "reproduced"), [("bigcode/santacoder", "MultiPL-E's Python"), ("bigcode/starcoderbase-1b", "no")]
)
def test_a_figure_that_was_made_otherwise_is_not_compared(model: str, reproduced: str) -> None:
    problems = PROTOCOLS["humaneval"].problems(FILES["humaneval"][2])
    keys = [[(problem.id, 0), (problem.id, 1)] for problem in problems]
    answers = Answers(keys, {}, {key: Verdict(True, "passed") for both in keys for key in both})
    metrics = report(PROTOCOLS["humaneval"], problems, answers, Against(model, None)).metrics
    assert metrics["python/reproduced"] == reproduced


def test_published_figures_are_of_what_is_measured_here() -> None:
    for figures in FIGURES.values():
        for benchmark, group in figures:
            protocol = PROTOCOLS[benchmark]
            assert protocol.score, benchmark
            assert benchmark != "multipl-e" or group in protocol.groups


def test_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "picture.svg"
    run(tmp_path, "fim", "--answers", "canonical", "--plot", str(picture))
    assert "SantaCoder-FIM" in picture.read_text()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--samples", "0"], "--samples is 1 or more"),
        (["--samples", "2000"], "1000 at most"),
        (["--group", "java"], "one set of data"),
        (["--answers", "empty", "--compare", "http://127.0.0.1:1"], "asks no server"),
        (["--data", "/dev/null"], "no data of HumanEval"),
    ],
)
def test_what_does_not_fit_is_told(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", "humaneval", *arguments]) == 2
    assert why in capsys.readouterr().err


def test_the_package_ships_the_published_data(tmp_path: Path) -> None:
    assert main(["quality", "humaneval", "--answers", "empty", "--problems", "1"]) == 0
    assert main(["quality", "mbpp", "--answers", "empty"]) == 2
