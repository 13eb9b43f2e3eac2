"""`python -m tests.mutation [ROOM ...]`: which planted faults the tests of a room notice, and which they do not.

A room is a folder of the code, or one file of it; without any, those of the files that differ from the last commit.
"""

from __future__ import annotations

import argparse
import math
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.mutation import judged
from tests.mutation.judged import Change
from tests.mutation.names import function_of
from tests.mutation.rooms import PACKAGES, ROOT, NoSuchRoomError, Room, is_left_out, room_of, rooms
from tests.mutation.scratch import BY_TYPES, NOTICED, UNNOTICED, MutmutError, Scratch


@dataclass
class Found:
    """Of one room. by_types: of those noticed, by the type checker. survived: that nobody has judged."""

    room: str
    planted: int = 0
    noticed: int = 0
    by_types: int = 0
    judged: int = 0
    survived: list[Change] = field(default_factory=list)

    @property
    def score(self) -> float:
        """Of the faults that tests should notice, the share that they do."""
        return self.noticed / (self.planted - self.judged) if self.planted > self.judged else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """In which the room's score lies, of which these are a sample: Wilson's, at 95 %."""
        count, z = max(self.planted - self.judged, 1), 1.96
        middle = (self.score + z * z / (2 * count)) / (1 + z * z / count)
        half = z * math.sqrt(self.score * (1 - self.score) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
        return max(middle - half, 0.0), min(middle + half, 1.0)


def look(room: Room, known: set[Change], sample: int | None, seed: int, workers: int) -> Found:
    """Raises MutmutError."""
    scratch = Scratch(ROOT / "build" / "mutants" / room.name.replace("/", "."), room)
    names = scratch.plant()
    if sample is not None and sample < len(names):
        names = sorted(random.Random(seed).sample(names, sample))
    if names:
        scratch.run(names, workers)
    codes = scratch.codes()
    found = Found(room.name, len(names))
    for name in names:
        if codes[name] in NOTICED:
            found.noticed += 1
            found.by_types += codes[name] == BY_TYPES
            continue
        if codes[name] not in UNNOTICED:
            raise MutmutError(f"{name} was not run: {codes[name]}")
        file, before, after = scratch.lines(name)
        change = Change(file, function_of(name), before, after)
        if change in known:
            found.judged += 1
        else:
            found.survived.append(change)
    return found


def changed() -> list[str]:
    """Files of the code that differ from the last commit, and are planted with faults."""
    command = ["git", "diff", "--name-only", "--diff-filter=d", "HEAD", "--", *(f"{name}/*.py" for name in PACKAGES)]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return [name for name in names if not is_left_out(name)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help="folder or file of the code")
    parser.add_argument("--all", action="store_true", help="every room")
    parser.add_argument("--sample", type=int, help="so many faults of each room, drawn by chance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    options = parser.parse_args(arguments)
    known = {one.change for one in judged.read()}
    try:
        wanted = rooms() if options.all else [room_of(name) for name in options.rooms or changed()]
    except NoSuchRoomError as error:
        parser.error(str(error))
    table, failed = [], False
    for room in wanted:
        print(f"{room.name}: {len(room.sources)} files", file=sys.stderr, flush=True)
        try:
            found = look(room, known, options.sample, options.seed, options.workers)
        except MutmutError as error:
            print(f"{room.name}: mutmut failed\n{error}", file=sys.stderr, flush=True)
            failed = True
            continue
        for change in found.survived:
            print(change, flush=True)
        least, most = found.interval if options.sample is not None else (found.score, found.score)
        counts = f"{found.planted} | {found.noticed} | {found.by_types} | {found.judged}"
        table.append(f"| {found.room} | {counts} | {found.score:.0%} | {least:.0%} to {most:.0%} |")
        print(table[-1], file=sys.stderr, flush=True)
    print("| room | planted | noticed | by types | judged | score | room's |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", *table, sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.path[:0] = [str(Path.cwd())]
    sys.exit(main())
