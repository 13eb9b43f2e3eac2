"""What gaps cost, when an answer is right, and two models beside each other: of answers made by hand."""

from __future__ import annotations

import contextlib
from pathlib import Path

import httpx
import pytest

from benchmarks.quality.clustered import unseen_percent
from benchmarks.quality.own.asking import sitting
from benchmarks.quality.own.comparing import beside
from benchmarks.quality.own.cost import Price, cost, open_seconds, published_price
from benchmarks.quality.own.figures import FEW_FILES, Scored, counted, score
from benchmarks.quality.own.record import Answer, OwnRecord, Sitting, Spent
from tests.support.made_up_gap import gap


def metrics_of(*seconds: float | None) -> httpx.AsyncClient:
    """A server whose engines have worked so long whenever it is asked; None: it does not tell."""
    waiting = iter(seconds)

    def handle(_: httpx.Request) -> httpx.Response:
        if (total := next(waiting)) is None:
            return httpx.Response(403)
        phases = [f'starcoder_engine_step_phase_seconds_total{{phase="{name}"}} {total / 2}' for name in "ab"]
        return httpx.Response(
            200, text="# TYPE starcoder_engine_step_phase_seconds counter\n" + "\n".join(phases) + "\n"
        )

    return httpx.AsyncClient(base_url="http://test", transport=httpx.MockTransport(handle))


@pytest.mark.parametrize(
    ("seconds", "told"), [((10.0, 14.0), 4.0), ((10.0, 3.0), None), ((None, 14.0), None), ((10.0, None), None)]
)
async def test_the_steps_of_engines_meanwhile_are_noted(
    seconds: tuple[float | None, float | None], told: float | None, tmp_path: Path
) -> None:
    """Also where a sitting breaks off; one without answers cost nothing. Where they began anew, nothing is known."""
    record = OwnRecord(tmp_path)
    with contextlib.suppress(RuntimeError):
        async with sitting(metrics_of(*seconds), record):
            record.add_answer(gap(), Answer("q", "b = 2", Spent(1, 0, 1, 0, 1)))
            raise RuntimeError
    async with sitting(metrics_of(0, 1), record):
        pass
    assert OwnRecord(tmp_path).sittings == [Sitting(1, told)]


def test_time_is_counted_once_and_pauses_not() -> None:
    spent = [Spent(0, 0, 0, began, ended) for began, ended in ((10, 12), (11, 15), (0, 1), (12, 13))]
    assert open_seconds(spent) == 6


def test_what_a_thousand_gaps_cost() -> None:
    answers = [Answer(str(at), "", Spent(100, 40, 10, float(at), at + 0.5)) for at in range(10)]
    found = cost(answers, [Sitting(4, 1.0), Sitting(6, None)], gpus=2, price=Price(0.001, 0.0001, 0.002))
    assert (found.seconds, found.prompt_tokens, found.output_tokens) == (500, 100_000, 10_000)
    assert (found.measured, found.gpu_seconds) == (True, 500)
    assert found.usd == pytest.approx(60 * 0.001 + 40 * 0.0001 + 10 * 0.002)
    told = cost(answers, [Sitting(10, None)], gpus=4, price=Price(0, 0, 0))
    assert (told.measured, told.gpu_seconds) == (False, 2000)
    assert published_price().prompt > 0


@pytest.mark.parametrize(
    ("kind", "text", "exact", "alike"),
    [
        ("line", "  b = 2 \n", True, 1),
        ("line", "b = 2\nc = 3", True, 1),
        ("line", "\nb = 2", False, 0),
        ("line", "b = 4", False, 0.8),
        ("block", "\n    b = 2\n", True, 1),
        ("block", "b = 2\nc = 3", False, 5 / 11),
    ],
)
def test_when_an_answer_is_right(kind: str, text: str, exact: bool, alike: float) -> None:
    (found,) = score([gap(kind=kind)], {"q": text})
    assert (found.exact, found.similarity) == (exact, pytest.approx(alike))


def scored(*files: str) -> list[Scored]:
    """A gap for each letter of each file: `+` is filled."""
    return [
        Scored(gap(file=str(number)), letter == "+", 0.5) for number, letters in enumerate(files) for letter in letters
    ]


def test_what_differs_within_a_file_alone_does_not_make_the_interval_sure() -> None:
    """Each model fills one gap of the first file, which a bootstrap of files cannot tell from none."""
    found = beside(scored("+-", "++", "-"), scored("-+", "++", "-"))
    assert (found.files, found.better, found.worse, found.exact) == (3, 1, 1, 0)
    most = unseen_percent([one.exact_percent() for one in scored("-", "-", "-")])
    assert found.exact_between == (-most, most)
    differs = beside(scored("+-", "++", "-"), scored("++", "++", "-")).exact_between
    assert differs is not None
    assert differs[0] <= 20 < differs[1] < most
    assert beside(scored("+-"), scored("-+")).exact_between is None


def test_few_files_are_marked() -> None:
    assert (counted(FEW_FILES - 1), counted(FEW_FILES)) == ("19 (few)", "20")
