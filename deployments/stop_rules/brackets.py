"""Where a block closes in languages that close it with a bracket."""

from __future__ import annotations

from deployments.stop_rules.watcher import Code, Place


class BracketBlock:
    """Ends at the end of the line in which the block closes.

    siblings: the block is the one around the cursor; otherwise it is the statement of the cursor's line, with the
    block that it opens. Outside of all brackets, a block of siblings ends with the first of them that has a block of
    its own, or at a blank line.
    """

    def __init__(self, place: Place, siblings: bool) -> None:
        self.safe = 0
        self._depth = _depth_around(place)
        self._siblings = siblings
        self._had_block = False

    def push(self, code: Code) -> int | None:
        self.safe = code.solid
        if code.char != "\n" or not code.solid or code.before.state.within:
            return None
        depth = len(code.before.state.open)
        if self._siblings:
            at_top = self._depth == 0 and depth == 0
            ends = depth < self._depth or (at_top and (self._had_block or code.breaks > 1))
        else:
            ends = depth <= self._depth
        self._had_block = self._had_block or depth > self._depth
        return code.solid if ends else None

    def flush(self, code: Code) -> int | None:
        return None


def _depth_around(place: Place) -> int:
    """Brackets around the statement of the cursor's line; `} else {` stands in one fewer than it begins in."""
    return len(place.here.state.open) if place.blank else place.here.least
