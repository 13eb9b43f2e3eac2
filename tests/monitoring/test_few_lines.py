"""An event that strangers cause at will does not fill the log."""

from __future__ import annotations

from monitoring.few_lines import MOST_LINES, PERIOD_S, FewLines
from tests.support.log_lines import captured


def test_so_many_lines_in_a_period_and_how_many_were_left_out() -> None:
    now = 0.0
    few = FewLines("knock", lambda: now)
    with captured() as lines:
        assert [few.write(who=number) for number in range(MOST_LINES + 3)] == [True] * MOST_LINES + [False] * 3
        assert [line["who"] for line in lines.all("knock")] == list(range(MOST_LINES))
        now = PERIOD_S - 0.1
        assert not few.write(who="late")
        now = PERIOD_S
        assert few.write(who="next")
        assert lines.all("knock")[-1]["left_out"] == 4
        few.write(who="another")
        assert "left_out" not in lines.all("knock")[-1]


def test_what_was_left_out_is_told_once() -> None:
    few = FewLines("knock", lambda: 0.0)
    with captured() as lines:
        few.tell()
        for _ in range(MOST_LINES + 2):
            few.write()
        few.tell()
        few.tell()
        assert [line.get("left_out") for line in lines.all("knock")] == [None] * MOST_LINES + [2]
