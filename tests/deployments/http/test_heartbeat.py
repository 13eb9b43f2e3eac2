"""A loop that turns is noted; one that is held is not."""

from __future__ import annotations

import asyncio

import pytest

from deployments.http.heartbeat import BEAT_S, Heartbeat
from tests.support.virtual_time import VirtualTimeLoop


@pytest.mark.parametrize("beat_s", [BEAT_S, 0.25])
def test_it_beats_while_the_loop_turns_and_until_it_is_stopped(beat_s: float) -> None:
    loop = VirtualTimeLoop()
    beats: list[float] = []

    async def run() -> None:
        heart = Heartbeat(lambda: beats.append(loop.time()), beat_s)
        assert beats == [0.0], "the first at once"
        await asyncio.sleep(3.5 * beat_s)
        assert beats == pytest.approx([0.0, beat_s, 2 * beat_s, 3 * beat_s])
        loop._clock.slept_s += 100 * beat_s  # somebody holds the loop, and with it the beat
        await asyncio.sleep(0.5 * beat_s)
        assert beats[4:] == pytest.approx([103.5 * beat_s]), "it makes up for nothing"
        heart.stop()
        await asyncio.sleep(10 * beat_s)
        assert len(beats) == 5

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
