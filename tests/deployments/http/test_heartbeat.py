"""A loop that turns is noted; one that is held is not."""

from __future__ import annotations

import time

from deployments.http.heartbeat import Heartbeat
from tests.support.waiting import eventually


async def test_it_beats_while_the_loop_turns_and_until_it_is_stopped() -> None:
    beats: list[int] = []
    heart = Heartbeat(lambda: beats.append(1), beat_s=0.001)
    assert beats, "the first at once"
    await eventually(lambda: len(beats) > 3)
    before = len(beats)
    time.sleep(0.02)  # noqa: ASYNC251
    assert len(beats) == before, "whoever holds the loop holds the beat"
    await eventually(lambda: len(beats) > before)
    heart.stop()
    before = len(beats)
    later: list[int] = []
    other = Heartbeat(lambda: later.append(1), beat_s=0.001)
    await eventually(lambda: len(later) > 3)
    other.stop()
    assert len(beats) == before
