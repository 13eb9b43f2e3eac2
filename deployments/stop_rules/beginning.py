"""Whether a line that grows turns out to be a known one."""

from __future__ import annotations


class Beginning:
    """Whether a line, without the white space at its end, begins `wanted`; each of its characters costs the same.

    line: what there is of it already.
    """

    def __init__(self, wanted: str, line: str = "") -> None:
        self._wanted = wanted
        self._length = len(line)
        self._solid = len(line.rstrip())
        pairs = enumerate(zip(wanted, line, strict=False))
        differs = next((at for at, (a, b) in pairs if a != b), min(len(wanted), len(line)))
        self._same = differs == len(line)
        self._differs = differs

    @property
    def holds(self) -> bool:
        return self._same or self._differs >= self._solid

    def push(self, char: str) -> None:
        if self._same and self._wanted[self._length : self._length + 1] != char:
            self._same, self._differs = False, self._length
        self._length += 1
        if not char.isspace():
            self._solid = self._length
