"""What each process of a verification does, without the processes."""

from __future__ import annotations

from typing import Any, ClassVar
from unittest.mock import Mock

import pytest

from deployments.command.verify import stages, writing
from model.process import rank as ranks


class FakeRank:
    """Tells what it is asked to do."""

    did: ClassVar[list[object]]

    def __init__(self, config: object, number: int) -> None:
        self.group = Mock(close=lambda: self.did.append("close"))
        self.did.append((config, number))

    def listen(self) -> str:
        return "where it listens"

    def load(self, address: str | None) -> None:
        self.did.append(f"load from {address}")

    def run(self) -> None:
        self.did.append("run")


class FakeLine:
    """On which whoever tells nothing learns what the first rank told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.told: list[object] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def first(self, value: object) -> object:
        self.told.append(value)
        return value or "what the first tells"


@pytest.fixture
def did(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    FakeRank.did = []
    monkeypatch.setattr(ranks, "Rank", FakeRank)
    return FakeRank.did


def on_rank(number: int, line: FakeLine) -> object:
    anything: Any = "what is asked"
    return stages._rank(anything, number, anything, line)  # type: ignore[arg-type]


def test_the_first_rank_says_where_it_listens_and_answers(did: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Mock()

    def answered(rank: FakeRank, material: str, say: Any) -> Mock:
        assert material == "what is asked"
        say("a case")
        return answer

    monkeypatch.setattr(writing, "answer", answered)
    line = FakeLine()
    assert on_rank(0, line) is answer
    assert line.told == ["where it listens"]
    assert line.said == ["engine: loading", "a case"]
    assert did == [("what is asked", 0), "load from where it listens", "close"]


def test_another_rank_learns_where_that_is_and_runs_until_it_ends(did: list[object]) -> None:
    line = FakeLine()
    assert on_rank(1, line) is None
    assert line.told == [None]
    assert line.said == []
    assert did == [("what is asked", 1), "load from what the first tells", "run"]


def test_the_others_are_let_go_where_the_first_fails(did: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "answer", Mock(side_effect=KeyError("lost")))
    with pytest.raises(KeyError):
        on_rank(0, FakeLine())
    assert did[-1] == "close"
