"""An event that strangers cause at will does not fill the log."""

from __future__ import annotations

from monitoring.few_lines import MOST_LINES, PERIOD_S, FewLines
from tests.support.log_lines import captured


def test_so_many_lines_in_a_period_and_how_many_were_left_out() -> None:
    now = 0.0
    few = FewLines("connection.refused", lambda: now)
    with captured() as lines:
        assert [few.write(client=str(number)) for number in range(MOST_LINES + 3)] == [True] * MOST_LINES + [False] * 3
        assert [line["client"] for line in lines.all("connection.refused")] == [*map(str, range(MOST_LINES))]
        now = PERIOD_S - 0.1
        assert not few.write(client="late")
        now = PERIOD_S
        assert few.write(client="next")
        assert lines.all("connection.refused")[-1]["left_out"] == 4
        few.write(client="another")
        assert "left_out" not in lines.all("connection.refused")[-1]


def test_what_was_left_out_is_told_once() -> None:
    few = FewLines("connection.refused", lambda: 0.0)
    with captured() as lines:
        few.tell()
        for _ in range(MOST_LINES + 2):
            few.write()
        few.tell()
        few.tell()
        assert [line.get("left_out") for line in lines.all("connection.refused")] == [None] * MOST_LINES + [2]
