"""Whole runs on a small repository: a server that knows all, one that knows nothing, and one that is not ours."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from benchmarks.__main__ import main
from benchmarks.quality.asking import Refused, Server
from benchmarks.quality.own.asking import OF_A_BLOCK, OF_A_LINE, Manner, ask_gaps, question_body
from benchmarks.quality.own.files import select
from benchmarks.quality.own.questions import Question, Sample, pieces, questions
from benchmarks.quality.own.record import Answer
from deployments.replica.sequence import SequenceText
from model.request import Output
from model.request import Request as Sequence
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import MODEL, FakeBackend
from tests.support.http_server import serving
from tests.support.made_up_gap import gap
from tests.support.made_up_repository import CODE, committed
from tests.support.stage import Stage

FEW = ("--gaps", "4", "--gaps-per-file", "2")
SAMPLE = Sample(gaps=4, per_file=2)


class Filling(FakeBackend):
    """Fills the gaps that it knows, in either order of prefix and suffix; has nothing to say to all others."""

    def __init__(self, tokenizer: Tokenizer, known: list[Question]) -> None:
        super().__init__(tokenizer)
        self._known = sorted(known, key=lambda question: -len(question.prefix))

    def output(self, text: SequenceText, sequence: Sequence, step: int) -> Output:
        output = super().output(text, sequence, step)
        prompt = self.tokenizer.decode(sequence.prompt_ids)
        missing = next((q.missing for q in self._known if q.prefix in prompt and q.suffix in prompt), "")
        ids = [*self.tokenizer.encode(missing), self.tokenizer.eos_id]
        token_id = ids[min(step, len(ids) - 1)]
        output.token_ids, output.finish_reason, output.stop_token_id = [token_id], None, None
        if token_id == self.tokenizer.eos_id:
            output.finish_reason, output.stop_token_id = "stop", token_id
        return output


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return committed(tmp_path / "shop", {**CODE, "node_modules/a.js": "let a = 1;\n"})


@pytest.fixture
def filling(stage: Stage, tokenizer: Tokenizer, fake_backend: FakeBackend, repository: Path) -> Filling:
    stage.actor = backend = Filling(tokenizer, questions(select(repository), SAMPLE))
    return backend


def run(repository: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    """The result's JSON, where there is one."""
    output, folder = repository.parent / "result.json", repository.parent / "run"
    given = ["quality", "own", str(repository), *FEW, "--run", str(folder), "--output", str(output), *arguments]
    assert main(given) == code
    return dict(json.loads(output.read_text())) if code == 0 else {}


def lines(repository: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (repository.parent / "run" / name).read_text().splitlines()]


def gaps(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in result["details"] if "gap" in one]


def test_what_is_missing_scores_all_and_nothing_scores_nothing(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for which, exact in (("canonical", 100), ("empty", 0)):
        metrics = run(repository, "--answers", which)["metrics"]
        for group in ("java, line", "python, block", "ruby, block", "all, line", "all"):
            assert metrics[f"{group}/exact_percent"] == metrics[f"{group}/similarity_percent"] == exact
        assert (metrics["java/files"], metrics["python/files"], metrics["all/files"]) == (1, 2, 4)
    shown = capsys.readouterr().out
    assert "of others, or made by programs" in shown
    assert "which a model may have learned from" in shown


def test_a_server_that_knows_scores_all(repository: Path, url: str, filling: Filling) -> None:
    result = run(repository, "--url", url)
    assert gaps(result)
    assert all(one["exact"] and one["similarity"] == 1 for one in gaps(result))
    assert {request.priority for request in filling.requests} == {1}
    asked = [request.params for request in filling.requests if request.params.prompt_logprobs is None]
    assert {(params.max_tokens, params.temperature) for params in asked} == {(filling.window // 4, 0)}
    assert (result["settings"]["model"], result["settings"]["commit"]) == (MODEL, select(repository).commit)
    assert result["settings"]["seed"] == SAMPLE.seed
    written = json.dumps(result)
    for secret in (str(repository), url, "total.py", "result += value"):
        assert secret not in written


def test_bits_are_those_of_the_tokens_that_the_server_says(
    repository: Path, url: str, filling: Filling, tokenizer: Tokenizer
) -> None:
    metrics = run(repository, "--url", url)["metrics"]
    for language, paths in {"java": ["lib/Pair.java"], "python": ["mean.py", "total.py"]}.items():
        bits, size = 0.0, 0
        for path in paths:
            first, *ids = tokenizer.encode(CODE[path])
            bits -= sum(FakeBackend.logprob(token_id) for token_id in ids) / math.log(2)
            size += len(CODE[path].encode()) - len(tokenizer.token_bytes(first))
        assert metrics[f"{language}/bytes_read"] == size
        assert (metrics[f"{language}/pieces_read"], metrics[f"{language}/pieces_shortened"]) == (len(paths), 0)
        assert metrics[f"{language}/bits_per_byte"] == pytest.approx(bits / size, abs=1e-6)
        assert metrics[f"{language}/byte_perplexity"] == pytest.approx(2 ** (bits / size))


def test_a_server_that_says_nothing_scores_nothing(repository: Path, url: str, filling: Filling) -> None:
    filling._known = []
    assert not any(one["exact"] or one["similarity"] for one in gaps(run(repository, "--url", url)))


def test_a_run_goes_on_where_it_was(repository: Path, url: str, filling: Filling) -> None:
    """Nothing is asked twice; with more gaps, only those that are new."""
    run(repository, "--url", url, "--sampling-only")
    asked = len(filling.requests)
    file = repository.parent / "run" / "answers.jsonl"
    file.write_bytes(file.read_bytes()[:-3])
    first = run(repository, "--url", url)
    assert len(filling.requests) == asked + 1
    again = run(repository, "--url", "http://127.0.0.1:1")
    assert again["metrics"] == first["metrics"]
    run(repository, "--url", url, "--gaps-per-file", "3", "--gaps", "5")
    new = len(lines(repository, "answers.jsonl")) - len(gaps(first))
    assert new > 0
    assert len(filling.requests) == asked + 1 + new
    for line in lines(repository, "answers.jsonl"):
        assert line["missing"] in CODE[line["path"]]
    run(repository, "--url", url, "--temperature", "0.5", code=2)


def test_a_model_that_is_not_there_spoils_no_folder(repository: Path, url: str, filling: Filling) -> None:
    run(repository, "--url", url, "--served-model", "misspelt", code=1)
    assert all(one["exact"] for one in gaps(run(repository, "--url", url, "--served-model", MODEL)))


def test_two_servers_are_compared_in_pairs(
    repository: Path, url: str, filling: Filling, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same one twice, with one answer of the second put wrong, and one text foreseen better."""
    run(repository, "--url", url, "--compare", url, "--sampling-only")
    folder = repository.parent / "run" / "compared"
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    answers[0]["text"] = "zzz"
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
    readings = [json.loads(line) for line in (folder / "readings.jsonl").read_text().splitlines()]
    for one in readings:
        one["bits"] /= 2
        one["shortened"] = True
    (folder / "readings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in readings))
    arguments = ("--url", url, "--compare", url, "--compare-gpus", "2", "--gpus", "1", "--price", "0.001")
    result = run(repository, *arguments, "--compare-price", "0.001,0,0.003")
    metrics, of = result["metrics"], len(gaps(result))
    found = {name: metrics[f"second_less_first/all/{name}"] for name in ("better", "worse", "p")}
    assert found == {"better": 0, "worse": 1, "p": 1}
    assert metrics["second_less_first/all/exact_points"] == pytest.approx(-100 / of)
    assert metrics["second_less_first/all/exact_points_low"] < 0
    equal = next(name for name in ("python, line", "all, block") if not metrics[f"second_less_first/{name}/worse"])
    assert 0 < metrics[f"second_less_first/{equal}/exact_points_high"] < 100
    assert metrics["second_less_first/same_texts"] == pytest.approx(1 - 1 / of)
    assert metrics["second_less_first/all/bits_per_byte"] == pytest.approx(-metrics["all/bits_per_byte"] / 2)
    assert metrics["second_less_first/all/second_pieces_shortened"] == len(readings)
    assert metrics["a_thousand_gaps/usd"] != metrics["a_thousand_gaps/second/usd"]
    shown = capsys.readouterr().out
    assert "the second server less the first, percentage points" in shown
    assert "-50.00" in shown


def test_a_picture(repository: Path, url: str, filling: Filling) -> None:
    picture = repository.parent / "picture.svg"
    run(repository, "--url", url, "--plot", str(picture))
    for panel in ("exact match, %", "edit similarity, %", "bits a byte"):
        assert panel in picture.read_text()


Handler = Callable[[dict[str, Any]], JSONResponse]


def other_server(handle: Handler, model: str = "other", weights: dict[str, str] | None = None) -> FastAPI:
    """One that is not ours: neither prompts nor counters are shown. weights: what it tells of them."""
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"data": [{"id": model}]}

    @app.get("/version")
    async def version() -> dict[str, Any]:
        return {"version": "0.1", **(weights or {})}

    @app.post("/v1/completions")
    async def completions(request: Request) -> JSONResponse:
        return handle(await request.json())

    return app


def test_a_server_that_does_not_score_prompts_has_no_bits(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is not asked again; nothing of our own dialect is sent to it."""
    seen: list[dict[str, Any]] = []

    def handle(body: dict[str, Any]) -> JSONResponse:
        seen.append(body)
        if body.get("echo"):
            return JSONResponse({"error": {"message": "echo is not supported"}}, status_code=400)
        return JSONResponse({"choices": [{"index": 0, "text": "x\ny"}]})

    with serving(other_server(handle)) as url:
        metrics = run(repository, "--url", url)["metrics"]
        again = run(repository, "--url", url)["metrics"]
    assert again == metrics
    assert sum("echo" in body for body in seen) <= 4
    assert not {"priority", "fim_mode", "completion_mode", "truncate_prompt_tokens"} & {key for b in seen for key in b}
    assert "all/bits_per_byte" not in metrics
    assert metrics["a_thousand_gaps/usd"] is None
    assert metrics["a_thousand_gaps/gpu_seconds"] == pytest.approx(metrics["a_thousand_gaps/seconds"])
    assert "echo is not supported" in capsys.readouterr().out


def empty_answer(body: dict[str, Any]) -> JSONResponse:
    if body.get("echo"):
        return JSONResponse({"error": {"message": "echo is not supported"}}, status_code=400)
    return JSONResponse({"choices": [{"index": 0, "text": ""}]})


BFLOAT16, INT8 = ({"dtype": "bfloat16", "quantization": name} for name in ("none", "int8"))


@pytest.mark.parametrize(
    ("model", "weights", "why"),
    [
        ("seven-b", BFLOAT16, "model: one-b, now seven-b"),
        ("one-b", INT8, "weights: bfloat16, none, now bfloat16, int8"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_answers_of_another_server_are_not_those_of_the_one_that_is_asked(
    model: str,
    weights: dict[str, str],
    why: str,
    whole: bool,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At the same address, under the same name: also where nothing is missing, and where a run would go on."""
    with serving(other_server(empty_answer, "one-b", BFLOAT16)) as url:
        assert run(repository, "--url", url)["settings"]["weights"] == "bfloat16, none"
    shown = capsys.readouterr().err
    assert f"answers of one-b (bfloat16, none) at {url} in {repository.parent / 'run'}: " in shown
    assert " asked, 0 kept" in shown
    if not whole:
        file = repository.parent / "run" / "answers.jsonl"
        file.write_bytes(file.read_bytes()[:-3])
    port = int(url.rpartition(":")[2])
    with serving(other_server(empty_answer, model, weights), port) as url:
        run(repository, "--url", url, code=2)
    assert why in capsys.readouterr().err


def test_a_second_server_is_told_apart_by_its_address(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Others do not tell their weights: 8 bits and 16 may have one name. The number of requests belongs to the cost."""
    with serving(other_server(empty_answer)) as first, serving(other_server(empty_answer)) as second:
        assert run(repository, "--url", first, "--compare", second)["metrics"]["second_less_first/asked_alike"]
        capsys.readouterr()
        run(repository, "--url", first, "--compare", first, code=2)
        assert f"url: {second}, now {first}" in capsys.readouterr().err
        run(repository, "--url", first, "--requests", "1", code=2)
        assert "requests: 4, now 1" in capsys.readouterr().err
        run(repository, "--url", first, "--compare", second)
        assert capsys.readouterr().err.count(": 0 asked, ") == 2
    run(repository, "--url", second)
    shown = capsys.readouterr().err
    assert f"no server at {second}" in shown
    assert f"answers of other at {first}" in shown


def test_a_pair_with_another_server_says_how_the_two_were_asked(
    repository: Path, url: str, filling: Filling, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ours alone knows is asked of ours alone."""
    with serving(other_server(empty_answer)) as other:
        metrics = run(repository, "--url", url, "--compare", other)["metrics"]
        assert metrics["second_less_first/asked_alike"] is False
        shown = capsys.readouterr().out
        assert "THE TWO WERE NOT ASKED ALIKE" in shown
        assert re.search(r"a block ends +by completion_mode auto +where the model ends it", shown)
        run(repository, "--url", url, "--compare", other, "--kinds", "line")
        assert "completion_mode" not in capsys.readouterr().out


def test_what_is_compared_with_nothing_is_not_read(repository: Path) -> None:
    """The first scores no prompts: the second is not asked for any."""
    seen: list[dict[str, Any]] = []

    def reads(body: dict[str, Any]) -> JSONResponse:
        seen.append(body)
        return empty_answer(body)

    with serving(other_server(empty_answer)) as first, serving(other_server(reads)) as second:
        run(repository, "--url", first, "--compare", second)
    assert seen
    assert not any("echo" in body for body in seen)


def test_how_a_gap_is_asked() -> None:
    """A line ends with itself, a block as the product ends one; the length of what is missing is not told."""
    line = question_body(gap(), Manner(), ours=True, window=8192)
    assert line == {"prompt": "a = 1\n", "suffix": "\nc = 3\n", "max_tokens": OF_A_LINE, "temperature": 0, "stop": "\n"}
    block = question_body(gap(kind="block"), Manner(), ours=True, window=None)
    assert (block["max_tokens"], block["completion_mode"], block["language"]) == (OF_A_BLOCK, "auto", "python")
    assert "stop" not in block
    assert "completion_mode" not in question_body(gap(kind="block"), Manner("raw"), ours=True, window=None)
    assert "completion_mode" not in question_body(gap(kind="block"), Manner(), ours=False, window=None)
    small = question_body(gap(kind="block"), Manner(temperature=0.2, seed=7), ours=False, window=256)
    assert (small["max_tokens"], small["temperature"], small["seed"]) == (64, 0.2, 7)


async def test_who_has_no_room_is_shown_what_is_nearest() -> None:
    """Half as far on both sides, until it fits; vLLM says in words that it does not."""
    seen = []

    def handle(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        seen.append((body["prompt"], body["suffix"]))
        if len(seen) < 3:
            return httpx.Response(400, text="This model's maximum context length is 8 tokens")
        return httpx.Response(200, json={"choices": [{"text": "x"}]})

    client = httpx.AsyncClient(base_url="http://test", transport=httpx.MockTransport(handle))
    came: list[tuple[Question, Answer]] = []
    await ask_gaps(
        Server(client, "m"), [gap(prefix="12345678", suffix="abcd")], Manner(), None, lambda *one: came.append(one)
    )
    assert seen == [("12345678", "abcd"), ("5678", "ab"), ("78", "a")]
    assert came[0][1].text == "x"


async def test_one_that_is_refused_ends_the_run_and_keeps_what_came() -> None:
    answers = iter([httpx.Response(200, json={"choices": [{"text": "x"}]}), httpx.Response(401, text="no")])
    client = httpx.AsyncClient(base_url="http://test", transport=httpx.MockTransport(lambda _: next(answers)))
    came: list[tuple[Question, Answer]] = []
    with pytest.raises(Refused, match="401: no") as refused:
        await ask_gaps(
            Server(client, "m"), [gap(), gap(id="r")], Manner(requests=1), None, lambda *one: came.append(one)
        )
    assert refused.value.status == 401
    assert [answer.id for _, answer in came] == ["q"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--gaps", "0"], "--gaps is 1 or more"),
        (["--gaps-per-file", "0"], "--gaps-per-file is 1 or more"),
        (["--text", "-1"], "--text is 0"),
        (["--window", "10"], "--window is 256"),
        (["--kinds", "line,word"], "word: no kind of gaps"),
        (["--languages", "cobol"], "cobol: no language"),
        (["--answers", "empty", "--compare", "http://127.0.0.1:1"], "asks no server"),
        (["--kinds", "block", "--languages", "java", "--since", "2030-01-01"], "older than --since"),
        (["--url", "http://example.com"], "not this machine"),
    ],
)
def test_what_does_not_fit_is_told(
    arguments: list[str], why: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(repository, *arguments, code=2)
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("price", ["-1", "x", "1,2", "inf"])
def test_prices_are_numbers(price: str, repository: Path) -> None:
    with pytest.raises(SystemExit):
        run(repository, "--price", price)


def test_pieces_are_asked_of_the_files_that_are_taken(repository: Path) -> None:
    assert {piece.path for piece in pieces(select(repository), SAMPLE)} == set(CODE)
